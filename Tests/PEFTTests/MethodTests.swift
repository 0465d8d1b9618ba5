import PEFT
import TensorFiles
import TestSupport
import Testing

/// The methods beside LoRA, against what PEFT made of them.
@Suite struct MethodTests {
  static let cases = (try? FileSystem.names(in: Fixtures.path("methods"))) ?? []
  /// Merged by PEFT, but from what no file determines.
  static let undetermined = ["adamss", "psoft"]
  static let merged = cases.filter {
    FileSystem.kind(Fixtures.path("methods/\($0)/merged")) != nil && !undetermined.contains($0)
  }

  @Test(arguments: merged)
  func everyTensorAgreesWithPEFT(name: String) async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("methods/\(name)")
    let plan = try MergePlan(base: "\(root)/base", adapter: "\(root)/adapter")
    try await Merger(plan).run(to: scratch("out"))
    #expect(plan.mergedCount > 0)
    let (output, expected) = (try Checkpoint(path: scratch("out")), try Checkpoint(path: "\(root)/merged"))
    #expect(Set(output.names) == Set(expected.names))
    var changed = 0
    for tensor in output.names {
      let entry = try #require(output[tensor]?.entry)
      #expect(entry.dtype == expected[tensor]?.entry.dtype && entry.shape == expected[tensor]?.entry.shape, "\(tensor)")
      let (found, wanted) = (try doubles(output, tensor), try doubles(expected, tensor))
      if try found != doubles(plan.base.checkpoint, tensor) { changed += 1 }
      let largest = wanted.map(abs).max() ?? 0
      // Some methods' changes PEFT rounds to bf16 before it adds them.
      let bound = entry.dtype == .bf16 ? powerOfTwo(Int(largest.exponent) - 7) : 1e-5 * largest
      for (x, y) in zip(found, wanted) { #expect(abs(x - y) <= bound, "\(tensor)") }
    }
    #expect(changed > 0)
  }

  /// The same base in double precision rounds nowhere.
  @Test(arguments: merged)
  func everyElementIsTheExactOneRoundedOnce(name: String) async throws {
    let scratch = try ScratchDirectory()
    let (output, exact) = try await mergedAndExact(Fixtures.path("methods/\(name)"), in: scratch)
    for tensor in output.names {
      let dtype = try #require(output[tensor]?.entry.dtype)
      let (found, wanted) = (try doubles(output, tensor), try doubles(exact, tensor))
      let largest = wanted.map(abs).max() ?? 0
      for (x, y) in zip(found, wanted) {
        let unit = powerOfTwo((y == 0 ? -126 : max(Int(y.exponent), -126)) - 7)
        let bound = dtype == .bf16 ? 0.51 * unit + 0x1p-19 * largest : 1e-5 * largest
        #expect(abs(x - y) <= bound, "\(tensor)")
      }
    }
  }

  /// Not BONE's, which an earlier release wrote with fewer keys.
  @Test(arguments: cases.filter { !$0.hasPrefix("bone") })
  func aConfigurationIsWrittenByteForByteAsPEFTWritesIt(name: String) throws {
    let path = Fixtures.path("methods/\(name)/adapter/adapter_config.json")
    #expect(try PeftConfig.load(path: path).config.fileText == FileSystem.text(path))
  }

  @Test(arguments: cases.filter { !merged.contains($0) })
  func whatCannotBeMergedIsReadAndRefusedWithTheReason(name: String) throws {
    let root = Fixtures.path("methods/\(name)")
    #expect(try AdapterSummary(directory: "\(root)/adapter").tensorCount > 0)
    let error = #expect(throws: AdapterError.self) { try MergePlan(base: "\(root)/base", adapter: "\(root)/adapter") }
    #expect(error.map(caseName) == "unsupported")
  }

  /// Every tensor in turn with one more extent: an error, never a trap.
  @Test(arguments: merged)
  func aTensorOfAnotherShapeIsRefused(name: String) throws {
    let root = Fixtures.path("methods/\(name)")
    let file = try SafetensorsFile(path: "\(root)/adapter/adapter_model.safetensors")
    for victim in file.entries.prefix(6) where !victim.name.contains("frod_s_size") {
      // Each module's view of shared bases says nothing and is not read.
      if victim.name.contains("layers") && (victim.name.hasSuffix("randlora_A") || victim.name.hasSuffix("randlora_B"))
      {
        continue
      }
      if victim.name.hasSuffix("base_layer.weight") { continue }
      let scratch = try ScratchDirectory()
      try FileSystem.makeDirectory(scratch("adapter"))
      try FileSystem.copy("\(root)/adapter/adapter_config.json", to: scratch("adapter/adapter_config.json"))
      let items = file.entries.map { entry in
        SafetensorsLayout.Item(
          name: entry.name, dtype: entry.dtype, shape: entry.name == victim.name ? entry.shape + [2] : entry.shape)
      }
      let layout = try SafetensorsLayout(path: "", items: items)
      _ = try layout.create(at: scratch("adapter/adapter_model.safetensors"))
      #expect(throws: AdapterError.self, "\(victim.name)") {
        try MergePlan(base: "\(root)/base", adapter: scratch("adapter"))
      }
    }
  }

  @Test(arguments: cases)
  func theCountIsPEFTs(name: String) throws {
    let root = Fixtures.path("methods/\(name)")
    let (config, path) = try PeftConfig.load(path: "\(root)/adapter")
    let base = try BaseModel(path: "\(root)/base", taskType: config.taskType)
    let weights = try Adapter.openWeights("\(root)/adapter")
    let count = try base.parameterCount(of: config, configPath: path, weights: weights)
    #expect("\(count)\n" == (try FileSystem.text("\(root)/count.txt")))
  }

  @Test func anUnknownMethodListsTheKnownOnes() throws {
    let error = #expect(throws: AdapterError.self) {
      try PeftConfig(json: .object([.init("peft_type", .string("NEXT"))]), path: "x")
    }
    #expect(error?.description.contains("LOKR") == true)
  }
}
