internal import PEFT
internal import TensorFiles

extension Chat {
  /// What a line with a slash at its beginning asks for.
  enum Order: String, CaseIterable {
    case adapter, adapters, system, reset, help, exit

    private var usage: String {
      switch self {
      case .adapter: "/adapter NAME[:WEIGHT]..."
      case .system: "/system TEXT"
      default: "/\(rawValue)"
      }
    }

    private var summary: String {
      switch self {
      case .adapter: "let these adapters act and no others; a path or a repository loads one, none is the base alone"
      case .adapters: "list the adapters and their weights"
      case .system: "say TEXT before the conversation from now on; without TEXT nothing"
      case .reset: "forget the conversation"
      case .help: "show this"
      case .exit: "end, as the end of the input does"
      }
    }

    /// What is shown in a conversation, one line an order.
    static var list: String { table(allCases.map { ["  \($0.usage)", $0.summary] }).joined(separator: "\n") }

    /// Sentences for the command's help.
    static var paragraphs: String { allCases.map { "\($0.usage): \($0.summary)." }.joined(separator: "\n") }
  }
}

/// A line of a conversation.
enum ChatLine: Equatable {
  case message(String)
  /// An order and the words after it.
  case order(Chat.Order, String)
  case unknown(String)

  /// Nil for a line with nothing in it. Two slashes stand for a message that begins with one.
  init?(_ line: String) {
    let first = line.drop(while: \.isWhitespace)
    guard !first.isEmpty else { return nil }
    guard first.hasPrefix("/"), !first.hasPrefix("//") else {
      self = .message(first.hasPrefix("//") ? String(first.dropFirst()) : line)
      return
    }
    let word = first.dropFirst().prefix { !$0.isWhitespace }
    guard let order = Chat.Order(rawValue: String(word)) else {
      self = .unknown("/\(word)")
      return
    }
    let rest = first.dropFirst(1 + word.count).drop(while: \.isWhitespace)
    self = .order(order, String(rest.reversed().drop(while: \.isWhitespace).reversed()))
  }
}

/// `peft-tool chat MODEL`
@Sendable func chatCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  var chat = try Chat(invocation, console)
  let isTalk = StandardInput.isTerminal
  if isTalk { console.note("/help lists what else can be said; /exit ends.") }
  Interruption.endPartsFirst()
  var lines = InputLines()
  while true {
    if isTalk { console.error("> ") }
    let line = try lines.next(interrupted: {
      if isTalk { console.error("\nCtrl-C once more ends, as /exit does.\n") }
      return isTalk
    })
    guard let line else { break }
    guard let said = ChatLine(line) else { continue }
    if isTalk { Interruption.forgetStops() }
    do {
      guard try chat.take(said) else { return 0 }
    } catch  where isTalk && !Task.isCancelled {
      console.failure(ErrorText.text(error, of: nil))
    }
  }
  if isTalk { console.error("\n") }
  return 0
}
