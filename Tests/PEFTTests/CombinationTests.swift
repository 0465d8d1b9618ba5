import PEFT
import TensorFiles
import TensorMath
import TestSupport
import Testing

/// Combining adapters by other rules than their sum.
@Suite struct CombinationTests {
  private let root = Fixtures.path("workbench/peft")

  private func inputs(_ weights: Double...) throws -> [(adapter: StoredAdapter, weight: Double)] {
    try zip(["one", "two"], weights).map { (try StoredAdapter(directory: "\(root)/\($0)"), $1) }
  }

  @Test(arguments: PeftCombination.Kind.allCases)
  func asPEFTGivesWhatItsAddWeightedAdapterGives(kind: PeftCombination.Kind) throws {
    let scratch = try ScratchDirectory()
    var options = PeftCombination.Options(kind)
    (options.rank, options.density, options.seed, options.base) = (3, 0.6, 3, "\(root)/base")
    _ = try PeftCombination(inputs(1, -0.5), options: options).write(to: scratch("out"))
    let (made, expected) = (
      try SafetensorsFile(path: scratch("out/adapter_model.safetensors")),
      try SafetensorsFile(path: "\(root)/expected.safetensors")
    )
    let names = expected.entries.map(\.name).filter { $0.hasPrefix("\(kind.rawValue)/") }
    #expect(names.count == made.entries.count)
    for name in names where name.contains("lora_A") || name.contains("embedding_A") {
      let a = String(name.dropFirst(kind.rawValue.count + 1))
      let b = a.replacing("lora_A", with: "lora_B").replacing("embedding_A", with: "embedding_B")
      let (madeA, madeB) = (try matrix(made, a), try matrix(made, b))
      let (wantedA, wantedB) = (try matrix(expected, name), try matrix(expected, "\(kind.rawValue)/\(b)"))
      if kind.rawValue.hasSuffix("svd") {
        // The signs of singular vectors are a decomposition's own affair.
        expectClose(madeB.times(madeA), wantedB.times(wantedA), 1e-5, name)
      } else {
        expectClose(madeA, wantedA, 1e-6, name)
        expectClose(madeB, wantedB, 1e-6, name)
        // A mask leaves zeros, and only where PEFT has them.
        #expect(zip(madeA.values, wantedA.values).allSatisfy { ($0 == 0) == ($1 == 0) }, "\(name)")
      }
    }
  }

  @Test func masksNeedTheBaseAndPruningADensity() throws {
    var options = PeftCombination.Options(.dareLinear)
    options.density = 0.5
    let scratch = try ScratchDirectory()
    #expect(throws: AdapterError.self) {
      try PeftCombination(inputs(1, 1), options: options).write(to: scratch("out"))
    }
    #expect(FileSystem.kind(scratch("out")) == nil)
    #expect(throws: AdapterError.self) { try PeftCombination(inputs(1, 1), options: .init(.ties)) }
  }

  @Test(arguments: [
    CombinationMethod.ties(density: 1, normalizes: false), .ties(density: 0.5, normalizes: true),
    .dare(density: 0.5, elects: false), .dare(density: 0.5, elects: true), .magnitude(density: 0.3),
    .breadcrumbs(density: 0.8, gamma: 0.1), .della(density: 0.5, epsilon: 0.1, elects: true), .slerp, .nuslerp,
  ])
  func aMethodWorksOnTheChangesWhateverFactorsMakeThem(method: CombinationMethod) async throws {
    let scratch = try ScratchDirectory()
    var options = AdapterCombination.Options()
    (options.method, options.rule, options.seed) = (method, RankRule(.energy(1)), 5)
    _ = try await AdapterCombination(inputs(1, 0.5), options: options).write(to: scratch("plain"))
    // The same changes by factors of another length and order: resized up and combined with a zero.
    var others = try inputs(1, 0.5)
    for index in others.indices {
      others[index].adapter = try await AdapterResize(others[index].adapter, rule: RankRule(.fixed(7))).resized()
        .adapter
    }
    _ = try await AdapterCombination(others, options: options).write(to: scratch("other"))
    let (plain, other) = (try AdapterChanges(scratch("plain")), try AdapterChanges(scratch("other")))
    #expect(other.error(against: plain.changes) < 1e-5)
    #expect(plain.changes.values.contains { $0.values.contains { $0 != 0 } })
  }

  @Test func theHalfwayOfSlerpLiesOnTheSphereAndTIESDropsWhatDisagrees() async throws {
    let scratch = try ScratchDirectory()
    var options = AdapterCombination.Options()
    (options.method, options.rule) = (.ties(density: 1, normalizes: false), RankRule(.energy(1)))
    _ = try await AdapterCombination(inputs(1, 2), options: options).write(to: scratch("ties"))
    let (one, two) = (try AdapterChanges("\(root)/one"), try AdapterChanges("\(root)/two"))
    let path = "model.layers.0.self_attn.q_proj"
    let made = try #require(try AdapterChanges(scratch("ties")).changes[path])
    let (a, b) = (try #require(one.changes[path]), try #require(two.changes[path]))
    for index in made.values.indices {
      let (x, y) = (a.values[index], 2 * b.values[index])
      let wanted = x * y >= 0 ? x + y : abs(x) > abs(y) ? x : y
      #expect(abs(made.values[index] - wanted) < 1e-5)
    }
    options.method = .slerp
    _ = try await AdapterCombination(inputs(1, 1), options: options).write(to: scratch("slerp"))
    let half = try #require(try AdapterChanges(scratch("slerp")).changes[path])
    func product(_ a: Matrix<Double>, _ b: Matrix<Double>) -> Double {
      zip(a.values, b.values).reduce(0) { $0 + $1.0 * $1.1 }
    }
    let cosine = product(a, b) / (product(a, a) * product(b, b)).squareRoot()
    // sin(θ/2)/sin θ of either.
    let share = 1 / (2 + 2 * cosine).squareRoot()
    for index in half.values.indices {
      #expect(abs(half.values[index] - share * (a.values[index] + b.values[index])) < 1e-5)
    }
  }

  @Test func aMethodNeedsARuleOfRanksAndAPathTwoAdapters() throws {
    var options = AdapterCombination.Options()
    options.method = .ties(density: 0.5, normalizes: false)
    #expect(throws: AdapterError.self) { try AdapterCombination(inputs(1, 1), options: options) }
    (options.method, options.rule) = (.slerp, RankRule(.fixed(2)))
    #expect(throws: AdapterError.self) { try AdapterCombination(inputs(1), options: options) }
    #expect(throws: AdapterError.self) { try AdapterCombination(inputs(1, -1), options: options) }
  }

  /// Trained rows, biases and heads beside factors, and targets by a pattern, by layers and by all but some, against PEFT's own.
  @Test func whatAdaptersHoldBesideFactorsIsCombinedAsPEFTAppliesIt() async throws {
    let scratch = try ScratchDirectory()
    let saved = Fixtures.path("workbench/combine-saved")
    let weights = [("one", 1.5), ("two", -0.5), ("three", 2)]
    let report = try await AdapterCombination(
      try weights.map { (try StoredAdapter(directory: "\(saved)/\($0.0)"), $0.1) }
    ).write(to: scratch("out"))
    #expect(report.error < 1e-6)
    let made = try AdapterChanges(scratch("out"))
    let expected = try AdapterChanges.expected("\(saved)/expected.safetensors")
    var changes: [String: Matrix<Double>] = [:]
    for (name, value) in expected {
      let parts = name.split(separator: "/").map(String.init)
      switch parts[0] {
      case "delta": changes[parts[1]] = value
      case "bias":
        // PEFT reads a bias of a module with factors from the layer within, and leaves all others as they were.
        let path = parts[1].dropLast(".bias".count)
        let stored = try made.values("base_model.model.\(path).base_layer.bias")
        #expect(stored.count == value.values.count && made.file["base_model.model.\(path).bias"] == nil)
        for (x, y) in zip(stored, value.values) { #expect(abs(x - y) < 1e-6, "\(name)") }
      default:
        let tokens = made.config.trainableTokenIndices["embed"]?.elements?.compactMap(\.integerValue) ?? []
        let token = try #require(Int(parts[1]))
        let row = try #require(tokens.firstIndex(of: token))
        let rows = try made.values("base_model.model.embed.token_adapter.trainable_tokens_delta")
        #expect(rows.count == 4 * 6)
        for (x, y) in zip(rows[row * 6..<row * 6 + 6], value.values) { #expect(x == y, "\(name)") }
      }
    }
    #expect(changes.count == 6 && made.changes.count == 6 && made.error(against: changes) < 1e-6)
    #expect(made.config.modulesToSave == ["head"] && made.config.bias == "all")
    // Weights that do not sum to 1 leave a part of the base's biases that is not known.
    let error = #expect(throws: AdapterError.self) {
      try AdapterCombination(try weights.map { (try StoredAdapter(directory: "\(saved)/\($0.0)"), 1) })
    }
    #expect(error?.description.contains("weights that sum to 2") == true, "\(String(describing: error))")
  }

  private func matrix(_ file: SafetensorsFile, _ name: String) throws -> Matrix<Double> {
    try AdapterChanges.matrix(file, try #require(file[name], "\(name)"))
  }

  private func expectClose(_ a: Matrix<Double>, _ b: Matrix<Double>, _ tolerance: Double, _ name: String) {
    #expect(a.rows == b.rows && a.columns == b.columns, "\(name)")
    guard a.values.count == b.values.count else { return }
    let worst = zip(a.values, b.values).map { abs($0 - $1) }.max() ?? 0
    #expect(worst <= tolerance, "\(name): \(worst)")
  }
}
