import Glibc
import PeftToolCLI

let work = Task.detached {
  await CommandLineTool(console: .standard).run(Array(CommandLine.arguments.dropFirst()))
}
Interruption.cancel(work)
Task.detached { exit(Interruption.exitCode(await work.value)) }
// Not `await` here: it ends the main thread, whose unwinding sorts the static program's tables first, for 10 ms.
while true { pause() }
