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
    let ranks: any Ranks
    do { ranks = try Launch.ranks() } catch {
      console.failure(error.description)
      return 2
    }
    let code = await run(words, console.speaking(for: ranks))
    ranks.end()
    return code
  }

  private func run(_ words: [String], _ console: Console) async -> Int32 {
    do {
      return try await dispatch(words, console)
    } catch let error as UsageError {
      console.failure(error.description)
    } catch let error as SharedFailure where error.own == nil || error.rank != console.ranks.rank {
      console.failure("rank \(error.rank): \(error.text)")
    } catch {
      let ranks = console.ranks
      let failure = (error as? SharedFailure)?.own ?? error
      // A failure of this rank alone: the others wait for it in vain.
      let isOwn = !ranks.isAlone && !(error is SharedFailure) && !Self.isOfAllRanks(error)
      defer { if isOwn { ranks.endAll(code: 2) } }
      return report(failure, words, isOwn ? self.console : console, isOwn ? "rank \(ranks.rank): " : "")
    }
    return 2
  }

  /// True for failures that all ranks come to by themselves.
  private static func isOfAllRanks(_ error: any Error) -> Bool {
    switch error as? TrainingError {
    case .notFinite, .interrupted, .otherRank, .noCheckpoint, .contradiction: true
    default: false
    }
  }

  /// Says what failed. The exit code.
  private func report(_ error: any Error, _ words: [String], _ console: Console, _ rank: String) -> Int32 {
    let command = words.first { !$0.hasPrefix("-") }.flatMap { name in CommandTable.commands.first { $0.name == name } }
    if Task.isCancelled { console.beginLine() }
    if error is CancellationError {
      let writes = command?.operands.contains { $0.takes == .directory } ?? false
      console.failure(rank + (writes ? "interrupted; nothing was written." : "interrupted."))
    } else {
      console.failure(rank + ErrorText.text(error, of: command))
    }
    if case TrainingError.notFinite = error { return 1 }
    if case TrainingError.interrupted = error { return 130 }
    return 2
  }

  private func dispatch(_ typed: [String], _ console: Console) async throws -> Int32 {
    // Switches of every command may stand before it.
    let leading = typed.prefix { ["--quiet", "-q", "--offline"].contains($0) }
    guard let first = typed.dropFirst(leading.count).first else { throw UsageError.noCommand }
    let words = [first] + leading + typed.dropFirst(leading.count + 1)
    switch first {
    case "--version", "-V", "-v", "version":
      console.line("peft-tool \(CommandTable.version)")
      return 0
    case "--help", "-h", "help":
      guard let name = words.dropFirst().first(where: { !$0.hasPrefix("-") }) else {
        console.output(Help.overview)
        return 0
      }
      console.output(Help.text(try command(named: name)))
      return 0
    default: break
    }
    let command = try command(named: first)
    let invocation = try command.parse(Array(words.dropFirst()))
    if invocation.has("help") {
      console.output(Help.text(command))
      return 0
    }
    if invocation.has("version") {
      console.line("peft-tool \(CommandTable.version)")
      return 0
    }
    guard command.isShared || console.ranks.isAlone else { throw UsageError.needsOneProgram(command: command.name) }
    var console = console
    console.isQuiet = invocation.has("quiet")
    if let how = invocation.value("progress") { console.progress = Progress(rawValue: how) ?? .none }
    let downloads = DownloadLines(console)
    let located = try console.ranks.together {
      try command.locatingModels(invocation) { downloads.update($0) }
    }
    return try await command.run(located, console)
  }

  private func command(named name: String) throws(UsageError) -> Command {
    guard let command = CommandTable.commands.first(where: { $0.name == name }) else {
      throw .unknownCommand(found: name, nearest: nearest(name, CommandTable.commands.map(\.name)))
    }
    return command
  }
}
