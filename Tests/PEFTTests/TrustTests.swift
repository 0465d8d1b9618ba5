import PEFT
import TensorFiles
import TestSupport
import Testing

/// A copy of the plainest adapter and its base.
private struct Pair {
  let scratch: ScratchDirectory
  var base: String { scratch("base") }
  var adapter: String { scratch("adapter") }
  var weights: String { "\(adapter)/adapter_model.safetensors" }

  init(_ name: String = "merge/llama-f32-qv") throws {
    scratch = try ScratchDirectory()
    try copyDirectory(Fixtures.path("\(name)/base"), to: scratch("base"))
    try copyDirectory(Fixtures.path("\(name)/adapter"), to: scratch("adapter"))
  }

  func edit(_ change: (inout JSONValue) -> Void) throws {
    var json = try JSONValue(contentsOf: "\(adapter)/adapter_config.json")
    change(&json)
    try overwrite("\(adapter)/adapter_config.json", json.compactText)
  }

  /// Overwrites the first tensor of that ending.
  func fill(_ ending: String, _ value: Float) throws {
    let file = try SafetensorsFile(path: weights)
    let entry = try #require(file.entries.first { $0.name.hasSuffix(ending) })
    var bytes = try contents(weights)
    let pattern = withUnsafeBytes(of: value) { Array($0) }
    for (index, place) in entry.byteRange.enumerated() { bytes[place] = pattern[index % 4] }
    try overwrite(weights, bytes)
  }

  func codes(readsValues: Bool = true) throws -> [String] {
    try Validation(path: adapter, readsValues: readsValues).findings.map(\.code)
  }
}

@Suite struct TrustTests {
  @Test(arguments: (try? FileSystem.names(in: Fixtures.path("merge"))) ?? [])
  func whatPEFTWroteIsValid(name: String) throws {
    #expect(try Validation(path: Fixtures.path("merge/\(name)/adapter")).findings == [])
    #expect(try Validation(path: Fixtures.path("merge/\(name)/base")).findings == [])
  }

  @Test(arguments: (try? FileSystem.names(in: Fixtures.path("methods"))) ?? [])
  func whatPEFTWroteOfOtherMethodsIsValid(name: String) throws {
    #expect(try Validation(path: Fixtures.path("methods/\(name)/adapter")).findings == [])
  }

  @Test func deadAdaptersAreFound() throws {
    let zero = try Pair()
    try zero.fill("q_proj.lora_B.weight", 0)
    #expect(try zero.codes() == ["zero-B"])
    #expect(try zero.codes(readsValues: false) == [])
    for value in [Float.nan, .infinity, -.infinity] {
      let pair = try Pair()
      try pair.fill("lora_A.weight", value)
      #expect(try pair.codes() == ["not-finite"])
    }
    let rank = try Pair()
    try rank.edit { $0["r"] = .integer(5) }
    #expect(Set(try rank.codes()) == ["rank"])
    let key = try Pair()
    try key.edit { $0["new_thing"] = .bool(true) }
    #expect(try key.codes() == ["configuration"])
    let target = try Pair()
    try target.edit { $0["target_modules"] = .array([.string("q_proj"), .string("k_proj")]) }
    #expect(Set(try target.codes()) == ["not-targeted", "missing-target"])
    let spare = try Pair()
    try spare.edit { $0["target_modules"] = .array(["q_proj", "v_proj", "query_key_value"].map { .string($0) }) }
    #expect(try spare.codes() == ["missing-target"])
    #expect(try Validation(path: spare.adapter).isValid)
    let foreign = try Pair()
    try FileSystem.remove(foreign.weights)
    try renameTensors(
      Fixtures.path("merge/llama-f32-qv/adapter/adapter_model.safetensors"), to: foreign.weights
    ) { $0.replacing("model.layers", with: "_orig_mod.model.layers") }
    #expect(try foreign.codes().contains("foreign-name"))
    let unpaired = try Pair()
    try FileSystem.remove(unpaired.weights)
    try renameTensors(
      Fixtures.path("merge/llama-f32-qv/adapter/adapter_model.safetensors"), to: unpaired.weights
    ) { $0.replacing("0.self_attn.q_proj.lora_B", with: "0.self_attn.x_proj.lora_B") }
    #expect(try unpaired.codes().filter { $0 == "unpaired" }.count == 2)
    let empty = try Pair()
    try FileSystem.remove(empty.weights)
    _ = try SafetensorsLayout(path: "", items: []).create(at: empty.weights)
    #expect(try empty.codes() == ["no-tensors"])
    let hollow = try Pair()
    let items = ["A", "B"].map {
      SafetensorsLayout.Item(
        name: "base_model.model.model.layers.0.self_attn.q_proj.lora_\($0).weight", dtype: .f32, shape: [0])
    }
    try FileSystem.remove(hollow.weights)
    _ = try SafetensorsLayout(path: "", items: items).create(at: hollow.weights)
    #expect(try hollow.codes().filter { $0 == "empty-tensor" }.count == 2)
  }

  @Test func everyLieOfAnIndexIsFound() throws {
    func findings(_ change: (ScratchDirectory, inout JSONValue) throws -> Void) throws -> Set<String> {
      let scratch = try ScratchDirectory()
      try copyDirectory(Fixtures.path("merge/llama-sharded/base"), to: scratch("base"))
      let path = scratch("base/model.safetensors.index.json")
      var index = try JSONValue(contentsOf: path)
      try change(scratch, &index)
      try overwrite(path, index.compactText)
      return Set(try Validation(path: scratch("base")).findings.map(\.code))
    }
    let shards = try FileSystem.names(in: Fixtures.path("merge/llama-sharded/base")).filter {
      $0.hasSuffix(".safetensors")
    }
    #expect(try findings { _, _ in } == [])
    #expect(try findings { scratch, _ in try FileSystem.remove(scratch("base/\(shards[0])")) } == ["missing-shard"])
    #expect(
      try findings { _, index in
        var map = try #require(index["weight_map"])
        map["model.extra.weight"] = .string(shards[0])
        index["weight_map"] = map
      } == ["missing-tensor"])
    #expect(
      try findings { _, index in
        var map = try #require(index["weight_map"])
        map["model.norm.weight"] = nil
        index["weight_map"] = map
      } == ["unlisted-tensor"])
    #expect(
      try findings { _, index in
        var map = try #require(index["weight_map"])
        let other = shards.first { .string($0) != map["model.norm.weight"] }
        map["model.norm.weight"] = .string(try #require(other))
        index["weight_map"] = map
      } == ["missing-tensor", "misplaced-tensor"])
    #expect(
      try findings { scratch, _ in
        try FileSystem.copy(scratch("base/\(shards[0])"), to: scratch("base/other.safetensors"))
      } == ["orphan-file"])
    #expect(
      try findings { _, index in index["metadata"] = .object([.init("total_size", .integer(7))]) } == ["total-size"])
    #expect(
      try findings { scratch, _ in
        var bytes = try contents(scratch("base/\(shards[0])"))
        bytes.removeLast()
        try overwrite(scratch("base/\(shards[0])"), bytes)
      } == ["damaged"])
  }

  @Test(arguments: ["merge/llama-f32-qv", "merge/gpt2-conv1d", "merge/llama-embedding", "variants/mixtral-experts"])
  func theNormIsThatOfTheWholeChange(name: String) async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path(name)
    let statistics = try await ModuleStatistics(directory: "\(root)/adapter")
    try widen("\(root)/base", to: scratch("base"))
    let plan = try MergePlan(base: scratch("base"), adapter: "\(root)/adapter")
    try await Merger(plan).run(to: scratch("out"))
    let output = try Checkpoint(path: scratch("out"))
    var whole = 0.0
    for tensor in output.names {
      let (before, after) = (try doubles(plan.base.checkpoint, tensor), try doubles(output, tensor))
      whole += zip(before, after).reduce(0) { $0 + ($1.1 - $1.0) * ($1.1 - $1.0) }
    }
    let summed = statistics.rows.reduce(0) { $0 + ($1.norm ?? .nan) * ($1.norm ?? .nan) }
    #expect(abs(whole - summed) < 1e-6 * whole)
    #expect(statistics.rows.allSatisfy { $0.health == .ok && $0.effectiveRank >= 1 })
  }

  @Test func aMergedModelNamesItsAdapterAndRefusesItTwice() async throws {
    let pair = try Pair()
    try await Merger(MergePlan(base: pair.base, adapter: pair.adapter)).run(to: pair.scratch("once"))
    let steps = Provenance(of: try Checkpoint(path: pair.scratch("once"))).steps
    #expect(steps.count == 1 && steps[0].weight == 1 && steps[0].name == "adapter" && steps[0].adapter.count == 64)
    let error = #expect(throws: AdapterError.self) {
      try MergePlan(base: pair.scratch("once"), adapter: pair.adapter)
    }
    #expect(error.map(caseName) == "alreadyMerged")
    var options = MergeOptions()
    options.allowRepeated = true
    #expect(throws: Never.self) {
      try MergePlan(base: pair.scratch("once"), adapter: pair.adapter, options: options)
    }
    // Taken out again, it may be merged again.
    let inputs = [MergePlan.Input(pair.adapter)]
    try await Merger(MergePlan(unmerging: pair.scratch("once"), adapters: inputs)).run(to: pair.scratch("back"))
    #expect(throws: Never.self) { try MergePlan(base: pair.scratch("back"), adapter: pair.adapter) }
  }

  @Test func aDigestIsSHA256() {
    var hash = SHA256()
    hash.add("abc")
    #expect(hash.finish() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
  }

  @Test func aBaseThatFitsIsShownAndOneThatDoesNotIsNamed() throws {
    let root = Fixtures.path("merge/llama-f32-qv")
    let match = try BaseMatch(base: "\(root)/base", adapter: "\(root)/adapter")
    #expect(match.moduleCount == 4 && match.rows.map(\.count) == [2, 2])
    #expect(throws: AdapterError.self) {
      try BaseMatch(base: Fixtures.path("merge/gpt2-conv1d/base"), adapter: "\(root)/adapter")
    }
  }
}
