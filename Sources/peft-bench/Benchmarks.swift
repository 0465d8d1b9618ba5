import Glibc
import PEFT
import TensorFiles
import TensorMath

/// The machine in one line: processor, cores, kernels.
func printMachine() {
  var model: Substring?
  if let file = fopen("/proc/cpuinfo", "r") {
    var line = [CChar](repeating: 0, count: 512)
    while model == nil, fgets(&line, Int32(line.count), file) != nil {
      let text = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
      if text.hasPrefix("model name") { model = text.split(separator: ":").last?.dropLast() }
    }
    fclose(file)
  }
  print(
    "machine: \(model.map { $0.drop { $0 == " " } } ?? "unknown"), \(sysconf(Int32(_SC_NPROCESSORS_ONLN))) cores; "
      + "own kernels \(ComputeBackend.kernelLevel), OpenBLAS \(ComputeBackend.openBLASKernel)")
}

/// Makes base and adapters in a process of their own: a child's peak memory counts from that of its parent.
func prepareApart(directory: String, layers: Int, what: String = "prepare") {
  let program = FileSystem.join(programDirectory, "peft-bench")
  _ = measure([program, what, "--directory", directory, "--layers", "\(layers)"])
}

func megabytes(_ bytes: Int) -> String { fixed(Double(bytes) / 1e6, 1) }

func printRow(_ cells: [String]) {
  let widths = [28, 9, 9, 9, 12]
  print(
    zip(cells, widths).map { cell, width in cell + String(repeating: " ", count: max(1, width - cell.count)) }
      .joined())
}

/// One line for each command; the ratio is the median of those to the first command, round by round.
private func printRatios(_ commands: [(name: String, results: [Measurement])], title: String) {
  printRow(["", "median s", "best s", title, "peak MB"])
  for (name, results) in commands {
    let seconds = results.map(\.seconds)
    let ratios = zip(seconds, commands[0].results.map(\.seconds)).map { $0 / $1 }
    printRow([
      name, fixed(median(seconds), 3), fixed(seconds.min() ?? 0, 3), fixed(median(ratios), 2),
      megabytes(results.map(\.peakBytes).max() ?? 0),
    ])
  }
}

/// `peft-tool merge` of adapters against `cp -r` of the base, in turn.
struct MergeBenchmark {
  let directory: String
  let layers: Int
  let rounds: Int

  func run() throws {
    let model = SyntheticModel(layers: layers, directory: directory)
    prepareApart(directory: directory, layers: layers)
    try run([
      ("merge q,v r=16", model.adapter("qv")), ("merge all-linear r=16", model.adapter("all")),
      ("merge all-linear DoRA r=16", model.adapter("dora")),
    ])
  }

  /// Times the merges of adapters, each beside `cp -r`.
  func run(_ adapters: [(String, String)]) throws {
    let model = SyntheticModel(layers: layers, directory: directory)
    let bytes = try Checkpoint(path: model.base).dataBytes
    let output = FileSystem.join(directory, "out")
    let tool = FileSystem.join(programDirectory, "peft-tool")
    printMachine()
    print(
      "base: \(layers) layers, \(fixed(Double(bytes) / 1e9, 2)) GB bf16, three shards, warm cache, \(rounds) rounds")
    let commands =
      [("cp -r", ["cp", "-r", model.base, output])]
      + adapters.map { ($0.0, [tool, "merge", "--quiet", model.base, $0.1, output]) }
    try timeInTurn(commands, output: output, rounds: rounds, title: "x cp -r")
  }
}

/// Times commands in turn, their output removed before each, and prints their ratios to the first.
func timeInTurn(_ commands: [(String, [String])], output: String, rounds: Int, title: String) throws {
  var results = [[Measurement]](repeating: [], count: commands.count)
  for round in 0...rounds {
    for (index, command) in commands.enumerated() {
      if FileSystem.kind(output) != nil { try FileSystem.remove(output) }
      let measurement = measure(command.1)
      // The first round warms the cache.
      if round > 0 { results[index].append(measurement) }
    }
  }
  if FileSystem.kind(output) != nil { try FileSystem.remove(output) }
  printRatios(zip(commands.map(\.0), results).map { ($0, $1) }, title: title)
}

/// Merges of other methods than LoRA against `cp -r`.
struct MethodBenchmark {
  let directory: String
  let layers: Int
  let rounds: Int

  func run() throws {
    let model = SyntheticModel(layers: layers, directory: directory)
    prepareApart(directory: directory, layers: layers, what: "prepare-methods")
    try MergeBenchmark(directory: directory, layers: layers, rounds: rounds).run(
      ["oft", "loha", "lokr"].map { ("merge all-linear \($0)", model.adapter($0)) })
  }
}

/// `peft-tool extract` of a model trained in full against `cp -r` of it.
struct ExtractBenchmark {
  let directory: String
  let layers: Int
  let rounds: Int

  func run() throws {
    let model = SyntheticModel(layers: layers, directory: directory)
    prepareApart(directory: directory, layers: layers, what: "prepare-pair")
    let output = FileSystem.join(directory, "out")
    let tool = FileSystem.join(programDirectory, "peft-tool")
    printMachine()
    print("models: \(layers) layers, bf16, three shards, warm cache, \(rounds) rounds")
    try timeInTurn(
      [
        ("cp -r", ["cp", "-r", model.tuned, output]),
        ("extract r=16", [tool, "extract", "--quiet", "--rank", "16", model.base, model.tuned, output]),
      ], output: output, rounds: rounds, title: "x cp -r")
  }
}

/// `verify` against the merge that it checks, and `inspect --stats` of a large adapter.
struct TrustBenchmark {
  let directory: String
  let layers: Int
  let rounds: Int

  func run() throws {
    let model = SyntheticModel(layers: layers, directory: directory)
    prepareApart(directory: directory, layers: layers, what: "prepare-methods")
    let tool = FileSystem.join(programDirectory, "peft-tool")
    let output = FileSystem.join(directory, "out")
    let (adapter, large) = (model.adapter("all"), FileSystem.join(directory, "adapter-7b-r64"))
    printMachine()
    var (merges, checks, statistics): ([Measurement], [Measurement], [Measurement]) = ([], [], [])
    for round in 0...rounds {
      if FileSystem.kind(output) != nil { try FileSystem.remove(output) }
      let merge = measure([tool, "merge", "--quiet", model.base, adapter, output])
      let check = measure([tool, "verify", model.base, adapter, output])
      let statistic = measure([tool, "inspect", "--stats", large])
      guard round > 0 else { continue }
      merges.append(merge)
      checks.append(check)
      statistics.append(statistic)
    }
    if FileSystem.kind(output) != nil { try FileSystem.remove(output) }
    printRatios(
      [("merge all-linear r=16", merges), ("verify", checks), ("inspect --stats 7B r=64", statistics)],
      title: "x merge")
  }
}

/// `peft-tool --version` and `peft-tool inspect` of an all-linear adapter.
struct StartupBenchmark {
  let directory: String
  let layers: Int
  let rounds: Int
  /// The program to start; nil for the one beside this.
  let tool: String?

  func run() throws {
    prepareApart(directory: directory, layers: layers)
    let adapter = SyntheticModel(layers: layers, directory: directory).adapter("all")
    let tool = tool ?? FileSystem.join(programDirectory, "peft-tool")
    printMachine()
    printRow(["", "median ms", "best ms", "", "peak MB"])
    // In turn, so that what else the machine does meets all alike.
    let commands = [
      ("empty process", ["/bin/true"]), ("--version", [tool, "--version"]), ("inspect", [tool, "inspect", adapter]),
    ]
    let all = (0..<max(20, rounds)).map { _ in commands.map { measure($0.1) } }
    for (index, (name, _)) in commands.enumerated() {
      let measurements = all.map { $0[index] }
      let seconds = measurements.map(\.seconds)
      printRow([
        name, fixed(median(seconds) * 1e3, 2), fixed((seconds.min() ?? 0) * 1e3, 2), "",
        megabytes(measurements.map(\.peakBytes).max() ?? 0),
      ])
    }
  }
}

/// The low-rank update of a block that fits in the cache, on one core.
struct KernelBenchmark {
  let rounds: Int

  func run() {
    printMachine()
    let (rows, columns) = (60, 2048)
    printRow(["update 60 x 2048", "GFLOP/s", "GB/s of W"])
    for format in [FloatFormat.bf16, .f16, .f32] {
      for rank in [8, 16, 64, 256] {
        var generator = TorchGenerator(seed: 1)
        let update = LowRankUpdate(
          left: generator.uniform(count: rows * rank, low: -1, high: 1),
          right: generator.uniform(count: rank * columns, low: -0.01, high: 0.01), rows: rows, columns: columns,
          rank: rank, scale: 1)
        var block = [UInt8](repeating: 0, count: rows * columns * format.byteCount)
        let repeats = 20_000 / rank
        var best = Double.infinity
        for _ in 0..<rounds {
          let start = now()
          for _ in 0..<repeats {
            var span = block.mutableSpan
            var bytes = span.mutableBytes
            update.apply(toRowsFrom: 0, of: &bytes, format: format)
          }
          best = min(best, (now() - start) / Double(repeats))
        }
        printRow([
          "\(format) rank \(rank)", fixed(2 * Double(rows * columns * rank) / best / 1e9, 1),
          fixed(Double(block.count) / best / 1e9, 2),
        ])
      }
    }
  }
}
