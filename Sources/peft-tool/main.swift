import Glibc
import PeftToolCLI

let work = Task.detached {
  await CommandLineTool(console: .standard).run(Array(CommandLine.arguments.dropFirst()))
}
Interruption.cancel(work)
exit(await work.value)
