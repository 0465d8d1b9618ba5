import Glibc
import PEFT
import TensorFiles
import TensorMath

// peft-bench CASE [--rounds N] [--layers N] [--directory DIR] [--model DIR] [--python PYTHON] [--tool PROGRAM]
let words = Array(CommandLine.arguments.dropFirst())

@MainActor func option(_ name: String) -> String? {
  guard let index = words.firstIndex(of: name), index + 1 < words.count else { return nil }
  return words[index + 1]
}

let rounds = option("--rounds").flatMap(Int.init) ?? 7
let layers = option("--layers").flatMap(Int.init) ?? 22
let directory = option("--directory") ?? "/tmp/peft-bench"

do {
  try FileSystem.makeDirectories(directory)
  switch words.first {
  case "prepare"?: try SyntheticModel(layers: layers, directory: directory).make()
  case "prepare-methods"?:
    try SyntheticModel(layers: layers, directory: directory).make()
    try SyntheticModel(layers: layers, directory: directory).makeMethods()
    try SyntheticModel(layers: layers, directory: directory).makeLargeAdapter()
  case "prepare-pair"?: try SyntheticModel(layers: layers, directory: directory).makePair()
  case "extract"?: try ExtractBenchmark(directory: directory, layers: layers, rounds: rounds).run()
  case "methods"?: try MethodBenchmark(directory: directory, layers: layers, rounds: rounds).run()
  case "trust"?: try TrustBenchmark(directory: directory, layers: layers, rounds: rounds).run()
  case "merge"?: try MergeBenchmark(directory: directory, layers: layers, rounds: rounds).run()
  case "startup"?:
    try StartupBenchmark(directory: directory, layers: layers, rounds: rounds, tool: option("--tool")).run()
  case "torch"?:
    try TorchBenchmark(
      directory: directory, layers: layers, rounds: rounds, python: option("--python") ?? "python3"
    ).run()
  case "generate"?:
    guard let model = option("--model") else {
      print("usage: peft-bench generate --model DIR [--python PYTHON] [--rounds N]")
      exit(2)
    }
    try GenerateBenchmark(model: model, python: option("--python"), rounds: rounds).run()
  case "train"?:
    guard let model = option("--model") else {
      print("usage: peft-bench train --model DIR [--records full|mixed] [--length N] [--python PYTHON] [--rounds N]")
      exit(2)
    }
    let isMixed = option("--records") == "mixed"
    let length = option("--length").flatMap { Int($0) } ?? (isMixed ? 512 : 256)
    try TrainBenchmark(
      model: model, python: option("--python"), rounds: rounds, isMixed: isMixed, length: max(16, length)
    ).run()
  case "kernels"?: KernelBenchmark(rounds: rounds).run()
  default:
    print(
      "usage: peft-bench merge|methods|trust|extract|startup|kernels|torch|generate|train [--rounds N] [--layers N] [--directory DIR]"
    )
    exit(2)
  }
} catch {
  print("peft-bench: \(error)")
  exit(2)
}
