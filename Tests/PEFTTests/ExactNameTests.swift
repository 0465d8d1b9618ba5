import PEFT
import TensorFiles
import TestSupport
import Testing

/// Names that Unicode calls equivalent and files do not: `é` in one code point, and in two.
private let (one, two) = ("\u{E9}", "e\u{301}")

@Suite struct ExactNameTests {
  private func write(_ path: String, _ tensors: [(name: String, shape: [Int], value: Float)]) throws {
    let items = tensors.map { SafetensorsLayout.Item(name: $0.name, dtype: .f32, shape: $0.shape) }
    let layout = try SafetensorsLayout(path: path, items: items)
    let file = try layout.create(at: path)
    for (tensor, placed) in zip(tensors, layout.entries) {
      let values = [Float](repeating: tensor.value, count: placed.elementCount)
      try file.write(values.span.bytes, at: placed.byteRange.lowerBound)
    }
  }

  /// A base with two layers that differ in code points only, and an adapter of rank 1 for the given one.
  private func model(_ scratch: ScratchDirectory, adapting module: String, extra: String = "") throws {
    try FileSystem.makeDirectory(scratch("base"))
    try FileSystem.makeDirectory(scratch("adapter"))
    try write(
      scratch("base/model.safetensors"), [("x.\(two).weight", [2, 2], 2), ("x.\(one).weight", [2, 2], 1)])
    try write(
      scratch("adapter/adapter_model.safetensors"),
      [
        ("base_model.model.x.\(module).lora_A.weight", [1, 2], 1),
        ("base_model.model.x.\(module).lora_B.weight", [2, 1], 1),
      ])
    try overwrite(
      scratch("adapter/adapter_config.json"),
      #"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["\#(module)"]\#(extra)}"#)
  }

  @Test(arguments: [one, two])
  func anAdapterForOneOfTwoEquivalentNamesLeavesTheOtherAsItIs(module: String) async throws {
    let scratch = try ScratchDirectory()
    try model(scratch, adapting: module)
    let plan = try MergePlan(base: scratch("base"), adapter: scratch("adapter"))
    #expect(plan.mergedCount == 1)
    try await Merger(plan).run(to: scratch("merged"))
    let merged = try Checkpoint(path: scratch("merged"))
    #expect(merged.tensorCount == 2)
    #expect(
      try doubles(merged, "x.\(one).weight")
        == [Double](repeating: Array(module.utf8) == Array(one.utf8) ? 2 : 1, count: 4))
    #expect(
      try doubles(merged, "x.\(two).weight")
        == [Double](repeating: Array(module.utf8) == Array(two.utf8) ? 3 : 2, count: 4))
    let findings = try await MergeVerifier(plan, model: merged).run()
    #expect(findings.count == 2)
    let difference = try CheckpointDifference(Checkpoint(path: scratch("base")), merged)
    #expect(difference.tensors.count == 2)
  }

  @Test func aTargetInOtherCodePointsTargetsNothing() throws {
    var config = PeftConfig()
    config.targetModules = .names([one])
    #expect(try TargetMatcher(config).verdict("x.\(one)") == .targeted)
    #expect(try TargetMatcher(config).verdict("x.\(two)") == .unmatched)
    // A dot parts a name whatever mark follows it.
    config.targetModules = .names(["\u{301}q"])
    #expect(try TargetMatcher(config).verdict("x.\u{301}q") == .targeted)
  }

  @Test func aPatternOfRanksIsForItsOwnCodePoints() throws {
    let text = #"{"peft_type": "LORA", "r": 8, "rank_pattern": {"\#(one)": 2, "\#(two)": 4}}"#
    let json = try #require(JSONValue(parsing: text))
    #expect(json["rank_pattern"]?[one] == .integer(2))
    #expect(json["rank_pattern"]?[two] == .integer(4))
    let config = try PeftConfig(json: json, path: "")
    #expect(config.rankPattern.entries.count == 2)
    let scaling = try LoRAScaling(config, path: "")
    #expect(try scaling.values(for: "x.\(one)").rank == 2)
    #expect(try scaling.values(for: "x.\(two)").rank == 4)
    #expect(JSONValue.string(one) != .string(two))
    #expect(JSONValue.object([.init(one, .null)]) != .object([.init(two, .null)]))
  }

  @Test func anUnknownKeyIsIgnoredOnlyByItsOwnCodePoints() throws {
    let json = try #require(JSONValue(parsing: #"{"peft_type": "LORA", "\#(one)": 1}"#))
    let config = try PeftConfig(json: json, path: "")
    try config.checkUnknownKeys(path: "", ignored: [one])
    #expect(throws: AdapterError.self) { try config.checkUnknownKeys(path: "", ignored: [two]) }
  }

  @Test func anAdapterWithBothNamesIsSavedWhole() throws {
    let scratch = try ScratchDirectory()
    try model(scratch, adapting: one)
    try write(
      scratch("both.safetensors"),
      [one, two].flatMap { name in
        ["A", "B"].map { ("base_model.model.x.\(name).lora_\($0).weight", $0 == "A" ? [1, 2] : [2, 1], Float(1)) }
      })
    try overwrite(scratch("adapter/adapter_model.safetensors"), try contents(scratch("both.safetensors")))
    try StoredAdapter(directory: scratch("adapter")).save(to: scratch("saved"))
    #expect(try SafetensorsFile(path: scratch("saved/adapter_model.safetensors")).entries.count == 4)
    #expect(try Adapter(directory: scratch("adapter")).modules.count == 2)
    let summary = try AdapterSummary(directory: scratch("adapter"))
    #expect(summary.parameterCount == 8)
  }
}
