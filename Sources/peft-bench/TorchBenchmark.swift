import Glibc
import TensorFiles

/// `peft-tool merge` of the same model as torch files and as safetensors, in turn.
struct TorchBenchmark {
  let directory: String
  let layers: Int
  let rounds: Int
  /// An interpreter with torch, which writes the files.
  let python: String

  func run() throws {
    let model = SyntheticModel(layers: layers, directory: directory)
    prepareApart(directory: directory, layers: layers)
    let (torch, output) = (FileSystem.join(directory, "base-torch"), FileSystem.join(directory, "out"))
    let tool = FileSystem.join(programDirectory, "peft-tool")
    if FileSystem.kind(torch) == nil {
      _ = measure([python, "Fixtures/scripts/make_torch_checkpoint.py", model.base, torch])
    }
    printMachine()
    let commands = [("merge, safetensors", model.base), ("merge, torch files", torch)].map { name, base in
      (name, [tool, "merge", "--quiet", base, model.adapter("all"), output])
    }
    try timeInTurn(commands, output: output, rounds: rounds, title: "x first")
  }
}
