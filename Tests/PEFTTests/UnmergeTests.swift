import PEFT
import TensorFiles
import TestSupport
import Testing

@Suite struct UnmergeTests {
  private static func cases(_ groups: String...) -> [String] {
    groups.flatMap { group in
      ((try? FileSystem.names(in: Fixtures.path(group))) ?? []).map { "\(group)/\($0)" }
        .filter { FileSystem.kind(Fixtures.path("\($0)/base")) == .directory }
    }
  }

  /// The greatest difference between a model and what it was before the merge, in units in the last place, counted at the
  /// larger of the merged and the restored value.
  private func units(_ base: Checkpoint, _ merged: Checkpoint..., restored: Checkpoint) throws -> Double {
    var largest = 0.0
    for name in restored.names {
      // A tied head that got a weight of its own holds what the embedding held.
      guard let was = base[name] ?? base["model.embed_tokens.weight"], let dtype = restored[name]?.entry.dtype else {
        Issue.record("\(name) is in neither")
        continue
      }
      let (old, new) = (try doubles(base.shards[was.shard].file, was.entry), try doubles(restored, name))
      let between = try merged.map { try doubles($0, name) }
      guard dtype.isComputable else { continue }
      #expect(new.count >= old.count)
      // A vocabulary that the merge has grown stays: its first rows are the base's.
      for index in old.indices {
        let unit = unitInTheLastPlace(between.reduce(abs(new[index])) { max($0, abs($1[index])) }, dtype)
        largest = max(largest, abs(old[index] - new[index]) / unit)
      }
    }
    return largest
  }

  private func unitInTheLastPlace(_ magnitude: Double, _ dtype: DType) -> Double {
    let (fraction, least) =
      switch dtype {
      case .bf16: (7, -126)
      case .f16: (10, -14)
      case .f32: (23, -126)
      default: (52, -1022)
      }
    return powerOfTwo((magnitude == 0 ? least : max(Int(magnitude.exponent), least)) - fraction)
  }

  private func isIrreversible(_ error: AdapterError) -> Bool {
    if case .irreversible = error { true } else { false }
  }

  @Test(arguments: cases("merge", "methods", "variants", "unmerge"))
  func whatWasMergedComesOutWithinOneUnitOrIsRefused(name: String) async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path(name)
    guard let plan = try? MergePlan(base: "\(root)/base", adapter: "\(root)/adapter") else { return }
    try await Merger(plan).run(to: scratch("out"))
    do {
      let back = try MergePlan(unmerging: scratch("out"), adapters: [MergePlan.Input("\(root)/adapter")])
      guard case .lastMerge? = back.restoration else {
        Issue.record("\(String(describing: back.restoration))")
        return
      }
      try await Merger(back).run(to: scratch("back"))
      let found = try units(
        plan.base.checkpoint, try Checkpoint(path: scratch("out")), restored: try Checkpoint(path: scratch("back")))
      #expect(found <= 1)
    } catch let error as AdapterError {
      #expect(isIrreversible(error), "\(error)")
      #expect(!error.description.contains("weight -"))
    }
  }

  @Test(arguments: [
    "merge/llama-embedding", "merge/llama-lm-head-untied", "merge/llama-lora-bias", "methods/beft", "methods/loha-bf16",
    "methods/supertuning-lora", "methods/gralora-hybrid", "variants/llama-grown-targeted", "variants/llama-replication",
    "variants/mixtral-experts", "variants/llama-block-diagonal", "unmerge/tied-embedding", "unmerge/tied-head",
    "unmerge/tied-both", "unmerge/tied-on-purpose",
  ])
  func whatOnlyAddsCanBeTakenOut(name: String) async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path(name)
    try await Merger(MergePlan(base: "\(root)/base", adapter: "\(root)/adapter")).run(to: scratch("out"))
    let inputs = [MergePlan.Input("\(root)/adapter")]
    #expect(throws: Never.self) { try MergePlan(unmerging: scratch("out"), adapters: inputs) }
  }

  @Test(arguments: [
    ("merge/llama-dora", "DoRA", "magnitudes"), ("merge/llama-saved-head", "lm_head", "stored in full"),
    ("merge/llama-tokens", "trainable tokens", "stored in full"), ("variants/llama-pissa", "PiSSA", "initialisation"),
    ("variants/llama-kasa", "KaSA", "initialisation"), ("methods/ia3", "IA3", "depends on the base"),
    ("methods/ln-tuning", "norm", "stored in full"),
  ])
  func whatCannotBeTakenOutIsRefusedForItsOwnReason(name: String, what: String, reason: String) async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path(name)
    try await Merger(MergePlan(base: "\(root)/base", adapter: "\(root)/adapter")).run(to: scratch("out"))
    let error = try #require(
      #expect(throws: AdapterError.self) {
        try MergePlan(unmerging: scratch("out"), adapters: [MergePlan.Input("\(root)/adapter")])
      })
    #expect(isIrreversible(error))
    #expect(error.description.contains(what) && error.description.contains(reason))
    #expect(!error.description.contains("weight -1"))
  }

  /// What PEFT merged into a tied weight is taken out of both sides, and no record says so.
  @Test(arguments: ["head", "two", "tied-embedding", "tied-embedding-f32", "tied-head", "tied-head-f32"])
  func whatPEFTMergedIsSubtractedAndNothingIsPromised(name: String) async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("unmerge/\(name)")
    let plan = try MergePlan(unmerging: "\(root)/merged", adapters: [MergePlan.Input("\(root)/adapter")])
    #expect(plan.restoration == .unrecorded)
    #expect(plan.notes.contains { $0.contains("nothing is promised") })
    try await Merger(plan).run(to: scratch("back"))
    let (base, back) = (try Checkpoint(path: "\(root)/base"), try Checkpoint(path: scratch("back")))
    #expect(Set(base.names) == Set(back.names))
    // PEFT rounds the change of an embedding in bf16 once more.
    #expect(try units(base, try Checkpoint(path: "\(root)/merged"), restored: back) <= 2)
  }

  private struct Pair {
    let scratch: ScratchDirectory
    let base = Fixtures.path("unmerge/head/base")
    let one = Fixtures.path("unmerge/head/adapter")
    let two = Fixtures.path("unmerge/two/adapter")

    init() throws { scratch = try ScratchDirectory() }

    @discardableResult
    func merge(_ base: String, _ inputs: [MergePlan.Input], to name: String) async throws -> MergePlan {
      let plan = try MergePlan(base: base, adapters: inputs)
      try await Merger(plan).run(to: scratch(name))
      return plan
    }

    @discardableResult
    func unmerge(_ model: String, _ inputs: [MergePlan.Input], to name: String) async throws -> MergePlan {
      let plan = try MergePlan(unmerging: scratch(model), adapters: inputs)
      try await Merger(plan).run(to: scratch(name))
      return plan
    }

    func checkpoint(_ name: String) throws -> Checkpoint { try Checkpoint(path: scratch(name)) }
  }

  @Test func severalAdaptersOfOneMergeComeOutTogether() async throws {
    let pair = try Pair()
    let inputs = [MergePlan.Input(pair.one, weight: 0.5), MergePlan.Input(pair.two), MergePlan.Input(pair.one)]
    try await pair.merge(pair.base, inputs, to: "out")
    // In another order, and the two weights of one adapter as their sum.
    let back = try await pair.unmerge(
      "out", [MergePlan.Input(pair.two), MergePlan.Input(pair.one, weight: 1.5)], to: "back")
    #expect(back.restoration == .lastMerge(copies: []))
    #expect(back.weights == [-0.5, -1, -1])
    #expect(try units(Checkpoint(path: pair.base), pair.checkpoint("out"), restored: pair.checkpoint("back")) <= 1)
    #expect(Provenance(of: try pair.checkpoint("back")).merged.isEmpty)
  }

  @Test func oneOfTwoComesOutAndTheOtherIsSaidToRemain() async throws {
    let pair = try Pair()
    try await pair.merge(pair.base, [MergePlan.Input(pair.one), MergePlan.Input(pair.two)], to: "both")
    try await pair.merge(pair.base, [MergePlan.Input(pair.two)], to: "second")
    let back = try await pair.unmerge("both", [MergePlan.Input(pair.one)], to: "back")
    guard case .amongOthers(let remaining, passes: 1)? = back.restoration else {
      Issue.record("\(String(describing: back.restoration))")
      return
    }
    #expect(remaining.map(\.weight) == [1])
    #expect(back.notes.contains { $0.contains("what remains is the merge of adapter with weight 1.0") })
    #expect(try units(pair.checkpoint("second"), pair.checkpoint("both"), restored: pair.checkpoint("back")) <= 2)
    // Then the other, and with it all.
    try await pair.unmerge("back", [MergePlan.Input(pair.two)], to: "again")
    let between = (try pair.checkpoint("both"), try pair.checkpoint("back"))
    let restored = try pair.checkpoint("again")
    #expect(try units(Checkpoint(path: pair.base), between.0, between.1, restored: restored) <= 2)
  }

  @Test func theRecordDecidesWhatIsTakenOut() async throws {
    let pair = try Pair()
    try await pair.merge(pair.base, [MergePlan.Input(pair.one, weight: 0.5)], to: "out")
    func failure(_ model: String, _ input: MergePlan.Input) throws -> AdapterError {
      try #require(
        #expect(throws: AdapterError.self) { try MergePlan(unmerging: pair.scratch(model), adapters: [input]) })
    }
    for input in [MergePlan.Input(pair.two), MergePlan.Input(pair.one), MergePlan.Input(pair.one, weight: 0.25)] {
      let error = try failure("out", input)
      #expect(caseName(error) == "notMerged")
      #expect(error.description.contains("adapter with weight 0.5"))
    }
    try await pair.unmerge("out", [MergePlan.Input(pair.one, weight: 0.5)], to: "back")
    let again = try failure("back", MergePlan.Input(pair.one, weight: 0.5))
    #expect(caseName(again) == "notMerged" && again.description.contains("no merge is left"))
  }

  @Test func anotherConfigurationThanTheMergedOneIsRefused() async throws {
    let pair = try Pair()
    try copyDirectory(pair.one, to: pair.scratch("adapter"))
    try await pair.merge(pair.base, [MergePlan.Input(pair.scratch("adapter"))], to: "out")
    let path = "\(pair.scratch("adapter"))/adapter_config.json"
    var config = try JSONValue(contentsOf: path)
    config["base_model_name_or_path"] = .string("elsewhere")
    try overwrite(path, config.compactText)
    let inputs = [MergePlan.Input(pair.scratch("adapter"))]
    #expect(throws: Never.self) { try MergePlan(unmerging: pair.scratch("out"), adapters: inputs) }
    config["lora_alpha"] = .integer(5)
    try overwrite(path, config.compactText)
    let error = #expect(throws: AdapterError.self) { try MergePlan(unmerging: pair.scratch("out"), adapters: inputs) }
    #expect(error.map(caseName) == "configChanged")
  }

  /// An adapter that brings its own copy of a weight sets it anew: what was merged into it before is lost.
  @Test func whatALaterMergeHasOverwrittenIsRefused() async throws {
    let pair = try Pair()
    try await pair.merge(pair.base, [MergePlan.Input(pair.one)], to: "first")
    let second = try await pair.merge(pair.scratch("first"), [MergePlan.Input(pair.two)], to: "second")
    #expect(second.restoration == nil)
    let error = #expect(throws: AdapterError.self) {
      try MergePlan(unmerging: pair.scratch("second"), adapters: [MergePlan.Input(pair.one)])
    }
    #expect(error.map(caseName) == "overwritten")
    let back = try await pair.unmerge("second", [MergePlan.Input(pair.two)], to: "back")
    #expect(back.restoration == .lastMerge(copies: ["lm_head.weight", "model.embed_tokens.weight"]))
    #expect(back.notes.contains { $0.contains("own copy") })
  }

  @Test func aRecordOfAnEarlierReleasePromisesNothing() async throws {
    let pair = try Pair()
    let plan = try await pair.merge(pair.base, [MergePlan.Input(pair.one)], to: "out")
    let path = pair.scratch("out/model.safetensors")
    let file = try SafetensorsFile(path: path)
    func rewrite(_ value: String) throws {
      let items = file.entries.map { SafetensorsLayout.Item(name: $0.name, dtype: $0.dtype, shape: $0.shape) }
      let layout = try SafetensorsLayout(
        path: path, items: items, metadata: [JSONValue.Member(Provenance.key, .string(value))])
      if FileSystem.kind(path) != nil { try FileSystem.remove(path) }
      let output = try layout.create(at: path)
      for (entry, placed) in zip(file.entries, layout.entries) {
        try output.copy(entry.byteRange, from: file.file, to: placed.byteRange.lowerBound)
      }
    }
    let step = try #require(Provenance(of: try pair.checkpoint("out")).steps.first)
    let old = """
      [{"adapter":"a","adapter_sha256":"\(step.adapter)","weight":1.0,"base_fingerprint":"\(step.base)","version":"0.3.0"}]
      """
    let inputs = [MergePlan.Input(pair.one)]
    try rewrite(old)
    #expect(try MergePlan(unmerging: pair.scratch("out"), adapters: inputs).restoration == .incompleteRecord)
    for damaged in ["[", "{}", "[{}]", old.replacing("1.0", with: "null")] {
      try rewrite(damaged)
      #expect(try MergePlan(unmerging: pair.scratch("out"), adapters: inputs).restoration == .unrecorded)
    }
    #expect(plan.notes.isEmpty)
  }
}
