import LanguageModels
import PEFT
import TensorFiles
import TensorMath

/// Tokens a second of a running model, beside the memory's bandwidth and, where a Python is given, transformers.
struct GenerateBenchmark {
  /// A causal language model.
  let model: String
  /// An interpreter with transformers; nil to leave the peer out.
  let python: String?
  let rounds: Int

  private static let (newTokens, promptTokens) = (128, 512)

  func run() throws {
    printMachine()
    let bytes = try Checkpoint(path: model).dataBytes
    print("model: \(megabytes(bytes)) MB, \(Parallel.threads) threads, \(rounds) rounds")
    // First, since a child's peak counts from that of its parent.
    let tool = FileSystem.join(programDirectory, "peft-tool")
    let text = String(repeating: "one two three four ", count: Self.promptTokens / 4)
    let words = [tool, "generate", model, "--quiet", "--ignore-eos", "-n", "\(Self.newTokens)", "-p", text]
    let peak = measure(words).peakBytes
    let plain = try PeftModel(base: model)
    let tuned = try PeftModel(base: model)
    let config = try PeftConfig.load(directory: try freshAdapter())
    precondition(config.rank == 16)
    try tuned.load(FileSystem.join(scratch, "adapter"), named: "default")
    var rows: [(made: Double, adapted: Double, read: Double, limit: Double)] = []
    _ = try decode(plain, 4)
    for _ in 0..<rounds {
      let limit = bandwidth(bytes) / Double(bytes)
      rows.append((try decode(plain, Self.newTokens), try decode(tuned, Self.newTokens), try prefill(plain), limit))
    }
    func line(_ name: String, _ values: [Double], _ note: String = "") {
      print("\(name): median \(fixed(median(values), 1)), best \(fixed(values.max() ?? 0, 1)) tokens a second\(note)")
    }
    line("decode, batch 1, \(Self.newTokens) tokens", rows.map(\.made))
    line("the memory's limit, as many bytes read a token", rows.map(\.limit))
    print("  decode / limit: \(fixed(median(rows.map { $0.made / $0.limit }), 2))")
    line("decode with a LoRA apart, r=16 on q,v", rows.map(\.adapted))
    print("  with / without: \(fixed(median(rows.map { $0.adapted / $0.made }), 2))")
    line("prefill, \(Self.promptTokens) tokens", rows.map(\.read))
    let ratio = fixed(Double(peak) / Double(bytes), 2)
    print("peak memory of peft-tool generate: \(megabytes(peak)) MB, \(ratio) x the checkpoint")
    for kind in python == nil ? [] : ["bf16", "f32"] { try peer(kind, rows.map { ($0.made, $0.read) }) }
  }

  private var scratch: String { "/tmp/peft-bench" }

  private func freshAdapter() throws -> String {
    let directory = FileSystem.join(scratch, "adapter")
    if FileSystem.kind(directory) != nil { try FileSystem.remove(directory) }
    var config = PeftConfig()
    config.rank = 16
    config.targetModules = .names(["q_proj", "v_proj"])
    config.taskType = "CAUSAL_LM"
    let base = try BaseModel(path: model, taskType: "CAUSAL_LM")
    try AdapterInitializer(base: base, config: config, configPath: "", seed: 0).write(to: directory)
    return directory
  }

  private func decode(_ model: PeftModel, _ count: Int) throws -> Double {
    var stop = StopConditions()
    stop.newTokens = count
    let start = now()
    _ = try model.generate(Array(10..<18), stop: stop)
    return Double(count) / (now() - start)
  }

  private func prefill(_ model: PeftModel) throws -> Double {
    let start = now()
    _ = try model.logits(Array(10..<10 + Self.promptTokens), cache: model.makeCache(), lastOnly: true)
    return Double(Self.promptTokens) / (now() - start)
  }

  /// Bytes a second that all threads together read from memory.
  private func bandwidth(_ count: Int) -> Double {
    let words = count / 8
    let memory = UnsafeMutablePointer<UInt64>.allocate(capacity: words)
    defer { memory.deallocate() }
    memory.initialize(repeating: 1, count: words)
    nonisolated(unsafe) let pointer = memory
    let piece = 1 << 17
    let sum = UnsafeMutablePointer<UInt64>.allocate(capacity: words / piece + 1)
    defer { sum.deallocate() }
    nonisolated(unsafe) let sums = sum
    var best = Double.infinity
    for _ in 0..<3 {
      let start = now()
      Parallel.forEach(words / piece) { index in
        var total = SIMD8<UInt64>()
        let from = UnsafeRawPointer(pointer + index * piece)
        for offset in stride(from: 0, to: piece * 8, by: 64) {
          total &+= from.loadUnaligned(fromByteOffset: offset, as: SIMD8<UInt64>.self)
        }
        sums[index] = total.wrappedSum()
      }
      best = min(best, now() - start)
    }
    precondition(sum[0] == UInt64(piece))
    return Double(words / piece * piece * 8) / best
  }

  /// Runs transformers on the same model and prints the ratios to it.
  private func peer(_ kind: String, _ ours: [(made: Double, read: Double)]) throws {
    guard let python else { return }
    let script = "Fixtures/scripts/bench_generate.py"
    let command = "\(python) \(script) \(model) \(kind) \(Self.newTokens) \(Self.promptTokens) 2>/dev/null"
    let text = lastLine(of: command)
    func number(_ key: String) -> Double {
      switch JSONValue(parsing: text)?[key] {
      case .number(let value)?: value
      case .integer(let value)?: Double(value)
      default: 0
      }
    }
    let (made, read) = (number("made"), number("read"))
    print(
      "transformers \(kind): decode \(fixed(made, 1)), prefill \(fixed(read, 1)) tokens a second, "
        + "peak \(megabytes(Int(number("peak")))) MB; we make \(fixed(median(ours.map(\.made)) / max(made, 1e-9), 2)) x and read "
        + "\(fixed(median(ours.map(\.read)) / max(read, 1e-9), 2)) x as many")
  }
}
