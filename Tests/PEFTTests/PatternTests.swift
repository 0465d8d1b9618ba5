import TensorFiles
import TestSupport
import Testing

@testable import PEFT

@Suite struct PatternTests {
  @Test func patternsMeanWhatTheyMeanInPython() throws {
    let cases = try #require(JSONValue(contentsOf: Fixtures.path("patterns/cases.json")).elements)
    var (matched, refused, unsupported) = (0, 0, 0)
    for golden in cases {
      let source = try #require(golden["pattern"]?.stringValue)
      let pattern: Pattern
      do {
        pattern = try Pattern(source)
      } catch {
        if golden["error"] != nil {
          refused += 1
        } else {
          // Valid in Python and not translated: allowed only if the error says so by name.
          #expect(caseName(error) == "patternUnsupported", "\(source): \(error)")
          unsupported += 1
        }
        continue
      }
      #expect(golden["error"] == nil, "Python refuses \(source)")
      for match in golden["matches"]?.elements ?? [] {
        let parts = try #require(match.elements)
        let subject = try #require(parts[0].stringValue)
        #expect(try pattern.matchesWhole(subject) == parts[1].boolValue, "fullmatch \(source) on \(subject)")
        #expect(try pattern.matchesStart(subject) == parts[2].boolValue, "match \(source) on \(subject)")
        matched += 1
      }
    }
    #expect(matched > 5000 && refused > 50 && unsupported < 5)
  }

  @Test func aRunawayPatternEndsInAnError() throws {
    let pattern = try Pattern("(a+)+(b|c)+$")
    let error = #expect(throws: AdapterError.self) {
      try pattern.matchesWhole(String(repeating: "a", count: 40) + "!")
    }
    #expect(error.map(caseName) == "patternRunaway")
  }

  /// Each of them is within what one pattern may take.
  @Test func manySlowPatternsEndAsOneDoes() throws {
    let path = String(repeating: "a", count: 22)
    func scaling(_ count: Int) throws -> LoRAScaling {
      let entries = (0..<count).map { #""(a|aa)+[bc]{1,\#($0 + 1)}": 4"# }.joined(separator: ", ")
      let json = #"{"peft_type": "LORA", "rank_pattern": {\#(entries)}}"#
      return try LoRAScaling(
        PeftConfig(json: #require(JSONValue(parsing: json)), path: "config"), path: "config")
    }
    #expect(try scaling(2).values(for: path).rank == 8)
    let error = #expect(throws: AdapterError.self) { try scaling(2000).values(for: path) }
    #expect(error.map(caseName) == "patternRunaway")
  }

  /// Patterns of many modules with as many entries are no such configuration.
  @Test func manyPatternsOverManyModulesAreTaken() throws {
    let entries = (0..<300).map { #""layers.\#($0).self_attn.q_proj": 4"# }.joined(separator: ", ")
    let json = #"{"peft_type": "LORA", "rank_pattern": {\#(entries)}}"#
    let scaling = try LoRAScaling(
      PeftConfig(json: #require(JSONValue(parsing: json)), path: "config"), path: "config")
    for layer in 0..<300 {
      #expect(try scaling.values(for: "model.layers.\(layer).self_attn.q_proj").rank == 4)
      #expect(try scaling.values(for: "model.language_model.layers.\(layer).mlp.experts.down_proj").rank == 8)
    }
  }

  @Test func randomPatternsNeverTrap() {
    var generator = SeededGenerator(seed: 22)
    let alphabet = Array(#"ab.*+?()[]{}\|^$,:=!<>P#-i123xuNdwZ é"#)
    var compiled = 0
    for _ in 0..<fuzzRounds {
      let source = String(
        (0..<Int.random(in: 1...12, using: &generator)).map { _ in alphabet.randomElement(using: &generator)! })
      guard let pattern = try? Pattern(source) else { continue }
      compiled += 1
      _ = try? pattern.matchesWhole("model.layers.0.q_proj")
    }
    #expect(compiled > 0)
  }
}

@Suite struct TargetMatcherTests {
  private func verdict(_ module: String, _ change: (inout PeftConfig) -> Void) throws -> TargetMatcher.Verdict {
    var config = PeftConfig()
    change(&config)
    return try TargetMatcher(config).verdict(module)
  }

  private let module = "model.layers.10.mlp.up_proj"

  @Test func aListMatchesWholePathsAndSuffixesAfterADot() throws {
    #expect(try verdict(module) { $0.targetModules = .names(["up_proj"]) } == .targeted)
    #expect(try verdict(module) { $0.targetModules = .names(["mlp.up_proj"]) } == .targeted)
    #expect(try verdict(module) { $0.targetModules = .names(["proj"]) } == .unmatched)
    #expect(try verdict(module) { $0.targetModules = .names(["up_.*"]) } == .unmatched)
    #expect(try verdict("up_proj") { $0.targetModules = .names(["up_proj"]) } == .targeted)
  }

  @Test func aStringMustMatchTheWholePath() throws {
    #expect(try verdict(module) { $0.targetModules = .pattern("up_proj") } == .unmatched)
    #expect(try verdict(module) { $0.targetModules = .pattern(#".*\.up_proj"#) } == .targeted)
  }

  @Test func exclusionAndSavedModulesComeFirst() throws {
    #expect(
      try verdict(module) {
        $0.targetModules = .names(["up_proj"])
        $0.excludeModules = .names(["10.mlp.up_proj"])
      } == .excluded)
    #expect(
      try verdict(module) {
        $0.targetModules = .names(["up_proj"])
        $0.excludeModules = .pattern(".*mlp.*")
      } == .excluded)
    #expect(
      try verdict(module) {
        $0.targetModules = .names(["up_proj"])
        $0.modulesToSave = ["mlp"]
      } == .excluded)
  }

  @Test func layersAreChosenByTheFirstNumberOrAfterThePattern() throws {
    func inLayers(_ layers: OneOrMany<Int>, _ path: String, pattern: OneOrMany<String>? = nil) throws -> Bool {
      try verdict(path) {
        $0.targetModules = .names(["up_proj"])
        $0.layersToTransform = layers
        $0.layersPattern = pattern
      } == .targeted
    }
    #expect(try inLayers(.one(10), module))
    #expect(try !inLayers(.one(1), module))
    #expect(try inLayers(.many([1, 10]), module, pattern: .one("layers")))
    #expect(try !inLayers(.many([10]), module, pattern: .one("blocks")))
    #expect(try inLayers(.many([]), module))
    #expect(try inLayers(.one(1), "model.layers.1.experts.0.up_proj"))
    #expect(try !inLayers(.one(0), "model.layers.1.experts.0.up_proj"))
  }

  @Test func theFirstMatchingPatternGivesTheRank() throws {
    var config = PeftConfig()
    config.rank = 8
    config.alpha = 16
    config.rankPattern = PatternMap([.init("up_proj", 4), .init("mlp.up_proj", 2), .init("^model.layers.3.*", 64)])
    config.alphaPattern = PatternMap([.init("layers.10.mlp.(up|down)_proj", 1)])
    let scaling = try LoRAScaling(config, path: "x")
    #expect(try scaling.values(for: module) == LoRAScaling.Values(rank: 4, alpha: 1, scale: 0.25))
    #expect(try scaling.values(for: "model.layers.3.q").rank == 64)
    #expect(try scaling.values(for: "q_up_proj") == LoRAScaling.Values(rank: 8, alpha: 16, scale: 2))
    config.useRSLoRA = true
    #expect(try LoRAScaling(config, path: "x").values(for: "model.layers.3.q").scale == 2)
  }
}
