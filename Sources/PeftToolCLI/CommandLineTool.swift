internal import PEFT
internal import Training

/// The tool: words in, exit code out.
public struct CommandLineTool: Sendable {
  private let console: Console

  public init(console: Console) { self.console = console }

  /// Runs one command.
  ///
  /// Returns 0 when done, 1 when the answer is no, 2 on wrong usage or failure, 130 for a run that was stopped and can go on.
  public func run(_ words: [String]) async -> Int32 {
    do {
      return try await dispatch(words)
    } catch let error as UsageError {
      console.failure(error.description)
    } catch is CancellationError {
      console.failure("interrupted; nothing was written.")
    } catch {
      let command = CommandTable.commands.first { $0.name == words.first }
      console.failure(ErrorText.text(error, of: command))
      if case TrainingError.notFinite = error { return 1 }
      if case TrainingError.interrupted = error { return 130 }
    }
    return 2
  }

  private func dispatch(_ words: [String]) async throws -> Int32 {
    guard let first = words.first else { throw UsageError.noCommand }
    switch first {
    case "--version", "-V":
      console.line("peft-tool \(CommandTable.version)")
      return 0
    case "--help", "-h", "help":
      if words.count > 1, let command = CommandTable.commands.first(where: { $0.name == words[1] }) {
        console.output(Help.text(command))
      } else {
        console.output(Help.overview)
      }
      return 0
    default: break
    }
    guard let command = CommandTable.commands.first(where: { $0.name == first }) else {
      throw UsageError.unknownCommand(
        found: first, nearest: nearest(first, CommandTable.commands.map(\.name)))
    }
    let invocation = try command.parse(Array(words.dropFirst()))
    if invocation.has("help") {
      console.output(Help.text(command))
      return 0
    }
    if invocation.has("version") {
      console.line("peft-tool \(CommandTable.version)")
      return 0
    }
    var console = console
    console.isQuiet = invocation.has("quiet")
    let downloads = DownloadLines(console)
    let located = try command.locatingModels(invocation) { downloads.update($0) }
    return try await command.run(located, console)
  }
}
