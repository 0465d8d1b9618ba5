import PEFT
import TensorFiles
import TestSupport
import Testing

@Suite struct ModuleStatisticsTests {
  /// Every case that PEFT has merged, of whatever method.
  static let merged = ["merge", "methods", "variants"].flatMap { kind in
    ((try? FileSystem.names(in: Fixtures.path(kind))) ?? []).map { "\(kind)/\($0)" }
  }.filter { FileSystem.kind(Fixtures.path("\($0)/merged")) == .directory && isMergeable($0) }

  /// Those of which base and merged model have the same names and shapes.
  static let comparable = merged.filter { name in
    let root = Fixtures.path(name)
    guard let before = try? Checkpoint(path: "\(root)/base"), let after = try? Checkpoint(path: "\(root)/merged") else {
      return false
    }
    return Set(before.names) == Set(after.names)
      && before.names.allSatisfy { before[$0]?.entry.shape == after[$0]?.entry.shape }
  }

  private static func isMergeable(_ name: String) -> Bool { !name.hasSuffix("/adamss") && !name.hasSuffix("/psoft") }

  @Test func mostCasesCanBeCompared() { #expect(Self.comparable.count > 140) }

  /// ‖W' - W‖² of PEFT's merge over all tensors that it changes.
  private func squares(_ root: String) throws -> (change: Double, dtype: DType) {
    let (before, after) = (try Checkpoint(path: "\(root)/base"), try Checkpoint(path: "\(root)/merged"))
    var (change, dtype) = (0.0, DType.f32)
    for name in after.names {
      guard let old = before[name], let new = after[name], old.entry.shape == new.entry.shape else { continue }
      guard old.entry.dtype.isComputable else { continue }
      let pairs = zip(try doubles(before, name), try doubles(after, name))
      let sum = pairs.reduce(0) { $0 + ($1.1 - $1.0) * ($1.1 - $1.0) }
      change += sum
      if sum > 0 { dtype = old.entry.dtype }
    }
    return (change, dtype)
  }

  @Test(arguments: comparable)
  func theNormIsThatOfWhatPEFTsMergeChanges(name: String) async throws {
    let root = Fixtures.path(name)
    let peft = try squares(root)
    let statistics = try await ModuleStatistics(directory: "\(root)/adapter", base: "\(root)/base")
    let ours = statistics.rows.reduce(0) { $0 + ($1.norm ?? 0) * ($1.norm ?? 0) }
    // PEFT's result is rounded to the weight's dtype, and some of its decompositions to f32.
    let slack = peft.dtype == .bf16 ? 0.02 : peft.dtype == .f16 ? 3e-3 : 2e-5
    #expect(
      abs(ours.squareRoot() - peft.change.squareRoot()) <= slack * peft.change.squareRoot(), "\(ours) \(peft.change)")
    #expect(statistics.rows.allSatisfy { $0.health == ($0.norm == 0 ? .untrained : .ok) })
    #expect(statistics.rows.contains { $0.relativeNorm != nil })
    let before = try Checkpoint(path: "\(root)/base")
    for row in statistics.rows where before["\(row.path).weight"]?.entry.dtype.isComputable == true {
      guard let norm = row.norm, let relative = row.relativeNorm, row.elementCount != nil else { continue }
      let weight = try doubles(before, "\(row.path).weight").reduce(0) { $0 + $1 * $1 }.squareRoot()
      #expect(abs(relative * weight - norm) <= 1e-6 * norm, "\(row.path)")
    }
  }

  @Test(arguments: merged)
  func withoutABaseANormIsTheSameOrADash(name: String) async throws {
    let root = Fixtures.path(name)
    let alone = try await ModuleStatistics(directory: "\(root)/adapter")
    let whole = try await ModuleStatistics(directory: "\(root)/adapter", base: "\(root)/base")
    #expect(!alone.rows.isEmpty)
    let known = Dictionary(whole.rows.map { ($0.path, $0) }, uniquingKeysWith: { first, _ in first })
    for row in alone.rows {
      #expect(row.health == .ok || row.health == .unknown, "\(row.path)")
      #expect(row.relativeNorm == nil)
      guard let norm = row.norm else { continue }
      let other = try #require(known[row.path]?.norm)
      #expect(abs(norm - other) <= 1e-9 * other, "\(row.path)")
    }
  }

  /// Methods whose change is a sum that the adapter holds whole: they need no base.
  @Test(arguments: [
    "merge/llama-f32-qv", "methods/adalora", "methods/loha", "methods/loha-convolution", "methods/lokr",
    "methods/lokr-convolution", "methods/c3a", "methods/delora", "methods/gralora", "methods/vblora",
    "methods/unilora-indices",
  ])
  func someMethodsNeedNoBase(name: String) async throws {
    let rows = try await ModuleStatistics(directory: Fixtures.path("\(name)/adapter")).rows
    #expect(rows.allSatisfy { $0.norm != nil && $0.health == .ok })
  }

  @Test(arguments: (try? FileSystem.names(in: Fixtures.path("untrained"))) ?? [])
  func anUntrainedAdapterIsSaidToBeUntrained(name: String) async throws {
    let root = Fixtures.path("untrained/\(name)")
    let changes = try #require(try JSONValue(contentsOf: "\(root)/changes.json").members)
    var changed: Set<String> = []
    for member in changes {
      guard let size = Double(member.value.compactText), size > 2e-6 else { continue }
      changed.insert(member.key.hasSuffix(".weight") ? String(member.key.dropLast(7)) : member.key)
    }
    let whole = try await ModuleStatistics(directory: root, base: Fixtures.path("merge/llama-bias-all/base"))
    #expect(!whole.rows.isEmpty)
    for row in whole.rows { #expect(row.health == (changed.contains(row.path) ? .ok : .untrained), "\(row.path)") }
    // Without the base it may be unknown, but never wrong.
    for row in try await ModuleStatistics(directory: root).rows {
      #expect(row.health == .unknown || row.health == (changed.contains(row.path) ? .ok : .untrained), "\(row.path)")
    }
  }

  @Test(arguments: [
    "lora", "ia3", "oft", "boft", "hra", "loha", "lokr", "vera", "adalora", "road", "hira", "miss", "shira",
  ])
  func mostMethodsNeedNoBaseToBeFoundUntrained(name: String) async throws {
    let rows = try await ModuleStatistics(directory: Fixtures.path("untrained/\(name)")).rows
    #expect(!rows.isEmpty && rows.allSatisfy { $0.health == .untrained })
  }

  @Test func valuesThatAreNoNumbersAreNotFinite() async throws {
    for name in ["methods/ia3", "methods/loha", "methods/prompt-tuning", "merge/llama-f32-qv"] {
      let scratch = try ScratchDirectory()
      try copyDirectory(Fixtures.path("\(name)/adapter"), to: scratch("adapter"))
      let path = scratch("adapter/adapter_model.safetensors")
      let file = try SafetensorsFile(path: path)
      var bytes = try contents(path)
      let nan = withUnsafeBytes(of: Float.nan) { Array($0) }
      for (index, byte) in nan.enumerated() { bytes[file.entries[0].byteRange.lowerBound + index] = byte }
      try overwrite(path, bytes)
      let rows = try await ModuleStatistics(directory: scratch("adapter")).rows
      #expect(rows.contains { $0.health == .notFinite && $0.norm == nil }, "\(name)")
    }
  }
}
