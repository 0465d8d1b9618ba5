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
    var results: [(name: String, results: [Measurement])] = [("merge, safetensors", []), ("merge, torch files", [])]
    for round in 0...rounds {
      for (index, base) in [model.base, torch].enumerated() {
        if FileSystem.kind(output) != nil { try FileSystem.remove(output) }
        let result = measure([tool, "merge", "--quiet", base, model.adapter("all"), output])
        if round > 0 { results[index].results.append(result) }
      }
    }
    if FileSystem.kind(output) != nil { try FileSystem.remove(output) }
    printRatios(results, title: "x first")
  }
}
