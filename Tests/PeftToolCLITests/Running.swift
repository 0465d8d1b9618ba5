import PeftToolCLI
import Synchronization

/// What a command said and returned.
struct Answer {
  let code: Int32
  let output: String
  let error: String
}

/// What the tool wrote.
final class Collected: Sendable {
  let text = Mutex("")
}

/// Runs the tool in this process.
func run(_ words: String...) async -> Answer { await run(words) }

/// Runs the tool in this process.
func run(_ words: [String], onTerminal: Bool = false) async -> Answer {
  let (output, error) = (Collected(), Collected())
  let console = Console(
    output: { text in output.text.withLock { $0 += text } }, error: { text in error.text.withLock { $0 += text } },
    writesToTerminal: onTerminal)
  let code = await CommandLineTool(console: console).run(words)
  return Answer(code: code, output: output.text.withLock { $0 }, error: error.text.withLock { $0 })
}
