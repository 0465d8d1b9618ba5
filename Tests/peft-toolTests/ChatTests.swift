import Foundation
import TensorFiles
import TestSupport
import Testing

/// `chat` as a program: from a pipe and on a terminal.
@Suite struct ChatTests {
  private static let chat = Fixtures.path("running/chat")
  private static let adapters = Fixtures.path("running/chatting")

  /// A started conversation whose words come from here.
  private final class Talk {
    let process = Process()
    private let input: FileHandle
    private let output = Pipe()
    private let error = Pipe()
    private var said: (output: String, error: String) = ("", "")

    init(_ words: [String], onTerminal: Bool = false) throws {
      process.executableURL = built("peft-tool")
      process.arguments = ["chat"] + words
      process.currentDirectoryURL = URL(fileURLWithPath: ChatTests.adapters)
      process.environment = ProcessInfo.processInfo.environment.merging(["HF_HUB_OFFLINE": "1"]) { $1 }
      if onTerminal {
        let terminal = try Terminal()
        process.standardInput = terminal.program
        input = terminal.person
      } else {
        let pipe = Pipe()
        process.standardInput = pipe
        input = pipe.fileHandleForWriting
      }
      process.standardOutput = output
      process.standardError = error
      for pipe in [output, error] { _ = fcntl(pipe.fileHandleForReading.fileDescriptor, F_SETFL, O_NONBLOCK) }
      try process.run()
    }

    func say(_ text: String) throws { try input.write(contentsOf: Data(text.utf8)) }

    func hangUp() throws { try input.close() }

    private func read() {
      said.output += available(output.fileHandleForReading.fileDescriptor)
      said.error += available(error.fileHandleForReading.fileDescriptor)
    }

    /// Waits until what was said fits.
    func hears(_ condition: (_ output: String, _ error: String) -> Bool) -> Bool {
      comes {
        read()
        return condition(said.output, said.error)
      }
    }

    /// Waits for the end.
    func ending() -> (code: Int32, output: String, error: String) {
      _ = comes {
        read()
        return !process.isRunning
      }
      process.waitUntilExit()
      read()
      return (process.terminationStatus, said.output, said.error)
    }
  }

  /// Of a fixture's conversation; orders are lines without tokens.
  private func lines() throws -> [(line: String, answer: [JSONValue?]?)] {
    try JSONValue(contentsOf: "\(Self.adapters)/expected.json").elements?.map { entry in
      (
        try #require(entry["line"]?.stringValue),
        entry["tokens"].map { [$0, entry["prompt_tokens"]] }
      )
    } ?? []
  }

  @Test(arguments: [["--adapter", "first", "--adapter", "second:0"], ["-a", "first"]])
  func aConversationFromAPipeSaysWhatTransformersAndPEFTSay(words: [String]) throws {
    let lines = try lines()
    let talk = try Talk([Self.chat, "-n", "8", "--json"] + words)
    // Only the first is active in the fixture; the second is loaded by its path when it is called for.
    if words.count > 2 { try talk.say("/adapter first\n") }
    try talk.say(lines.map { $0.line + "\n" }.joined())
    try talk.hangUp()
    let end = talk.ending()
    #expect(end.code == 0, "\(end.error)")
    let answers = end.output.split(separator: "\n").compactMap { JSONValue(parsing: String($0)) }
    #expect(answers.map { [$0["tokens"], $0["prompt_tokens"]] } == lines.compactMap(\.answer))
  }

  @Test func textStreamsWithoutATemplatesWordsAndOrdersAnswerToo() throws {
    let talk = try Talk([Self.chat, "-n", "24", "--quiet", "--system", "Be brief"])
    try talk.say("\n/adapters\n//adapters\n/help\n/exit\nnever\n")
    let end = talk.ending()
    #expect(end.code == 0 && end.error.isEmpty, "\(end.error)")
    let parts = end.output.split(separator: "\n", maxSplits: 1).map(String.init)
    #expect(parts.first == "no adapters; /adapter PATH loads one")
    #expect(!end.output.contains("<|im_start|>") && end.output.contains("/adapter NAME[:WEIGHT]..."))
  }

  @Test(arguments: [
    ("/adaptor x", "unknown command '/adaptor'. Did you mean '/adapter'"),
    ("/adapter", "/adapter needs a name or a path"),
    ("/adapter ./nosuch", "./nosuch: no such file or directory (adapter)"),
    ("/adapter first:half", "first: the weight 'half' is no finite number"),
    ("/adapter first:nan", "first: the weight 'nan'"),
    ("/adapter \(Fixtures.path("merge/gpt2-conv1d/adapter"))", "0 of 8 adapter modules matched"),
    (String(repeating: "word ", count: 400), "/reset begins a new one"),
  ])
  func whatCannotBeFollowedEndsAPipeWithTwoAndGoesOnOnATerminal(line: String, part: String) throws {
    let piped = try Talk([Self.chat, "-n", "4", "-a", "first"])
    try piped.say("\(line)\nHello\n")
    try piped.hangUp()
    let end = piped.ending()
    #expect(end.code == 2 && end.output.isEmpty && end.error.contains(part), "\(end.error)")

    let talk = try Talk([Self.chat, "-n", "4", "-a", "first", "--json"], onTerminal: true)
    try talk.say("\(line)\n")
    #expect(talk.hears { $1.contains(part) })
    // What the adapters and the conversation were, they are.
    try talk.say("/adapters\nHello, world!\n/exit\n")
    let after = talk.ending()
    let answers = after.output.split(separator: "\n").compactMap { JSONValue(parsing: String($0)) }
    #expect(after.code == 0 && answers.count == 2, "\(after.error)")
    #expect(answers.first?["adapters"]?.elements?.first?["weight"] == .number(1))
    #expect(answers.last?["prompt_tokens"]?.integerValue == 61)
  }

  /// A model whose answers last until they are stopped.
  private func endless(_ scratch: ScratchDirectory) throws -> [String] {
    let path = scratch("model")
    try copyDirectory(Self.chat, to: path)
    var config = try JSONValue(contentsOf: "\(path)/config.json")
    config["max_position_embeddings"] = .integer(100_000_000)
    try overwrite("\(path)/config.json", config.compactText)
    return [path, "--ignore-eos", "-n", "1000000"]
  }

  @Test func controlCEndsAnAnswerAndTwiceTheProgram() throws {
    let scratch = try ScratchDirectory()
    let talk = try Talk(endless(scratch), onTerminal: true)
    func prompts(_ text: String) -> Int { text.count { $0 == ">" } }
    #expect(talk.hears { prompts($1) == 1 })
    for count in 2...3 {
      try talk.say("Hello\n")
      var before = 0
      #expect(
        talk.hears { output, _ in
          if before == 0 { before = output.utf8.count }
          return output.utf8.count > before + 20
        })
      kill(talk.process.processIdentifier, SIGINT)
      #expect(talk.hears { prompts($1) == count })
    }
    kill(talk.process.processIdentifier, SIGINT)
    let end = talk.ending()
    #expect(end.code == 130 && end.error.hasSuffix("peft-tool: interrupted.\n"), "\(end.error)")
  }

  @Test func controlCAtAPromptSaysHowToEnd() throws {
    let talk = try Talk([Self.chat], onTerminal: true)
    #expect(talk.hears { $1.hasSuffix("> ") })
    kill(talk.process.processIdentifier, SIGINT)
    #expect(talk.hears { $1.hasSuffix("Ctrl-C once more ends, as /exit does.\n> ") })
    kill(talk.process.processIdentifier, SIGINT)
    #expect(talk.ending().code == 130)
  }

  @Test(arguments: [(SIGINT, 2), (SIGTERM, 1)]) func signalsEndAConversationFromAPipe(signal: Int32, count: Int) throws
  {
    let scratch = try ScratchDirectory()
    let talk = try Talk(endless(scratch))
    try talk.say("Hello\nand\n")
    for _ in 0..<count {
      var before = 0
      #expect(
        talk.hears { output, _ in
          if before == 0 { before = output.utf8.count }
          return output.utf8.count > before + 20
        })
      kill(talk.process.processIdentifier, signal)
      usleep(300_000)
    }
    #expect(talk.ending().code == 128 + signal)
  }

  @Test func theEndOfTheInputEndsAConversationOnATerminal() throws {
    let talk = try Talk([Self.chat, "-n", "2"], onTerminal: true)
    #expect(talk.hears { $1.hasSuffix("> ") })
    try talk.say("\u{4}")
    #expect(talk.ending().code == 0)
  }
}
