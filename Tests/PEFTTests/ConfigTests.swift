import Foundation
import PEFT
import TensorFiles
import TestSupport
import Testing

private func text(_ path: String) throws -> String { try FileSystem.text(Fixtures.path("configs/\(path)")) }

private func config(_ path: String) throws -> PeftConfig {
  try PeftConfig.load(path: Fixtures.path("configs/\(path)")).config
}

@Suite struct ConfigTests {
  @Test func everyFileOfPEFTIsWrittenBackByteForByte() throws {
    let names = try FileSystem.names(in: Fixtures.path("configs/current"))
    for name in names {
      #expect(try config("current/\(name)").fileText == text("current/\(name)"), "\(name)")
      #expect(try config("current/\(name)").unknownKeys.isEmpty)
    }
    #expect(names.count >= 25)
  }

  @Test func aFreshConfigurationIsPEFTsDefault() throws {
    #expect(try PeftConfig().fileText == text("current/default.json"))
  }

  @Test func filesOfEarlierReleasesBecomeWhatPEFTMakesOfThem() throws {
    let names = try FileSystem.names(in: Fixtures.path("configs/former")).filter { !$0.contains("resaved") }
    for name in names {
      var loaded = try config("former/\(name)")
      try loaded.checkUnknownKeys(path: name)
      // PEFT drops what it does not know; here it survives.
      let known = Set(["merge_weights", "enable_lora"])
      #expect(Set(loaded.unknownKeys.map(\.key)).isSubset(of: known), "\(name)")
      loaded.unknownKeys = []
      #expect(try loaded.fileText == text("former/\(name.replacing(".json", with: ".resaved.json"))"), "\(name)")
    }
    #expect(names.count >= 8)
  }

  @Test func unknownKeysSurviveARoundTrip() throws {
    let source = #"{"peft_type": "LORA", "zz_new": {"b": 1.0, "a": [1, null]}, "r": 4}"#
    let loaded = try PeftConfig(json: try #require(JSONValue(parsing: source)), path: "x")
    #expect(loaded.rank == 4)
    let again = try PeftConfig(json: try #require(JSONValue(parsing: loaded.fileText)), path: "x")
    #expect(again.json["zz_new"] == JSONValue(parsing: #"{"a": [1, null], "b": 1.0}"#))
  }

  @Test func itIsCodable() throws {
    let original = try config("current/patterns.json")
    let data = try JSONEncoder().encode(original)
    let decoded = try JSONDecoder().decode(PeftConfig.self, from: data)
    #expect(decoded.rank == original.rank && decoded.targetModules == original.targetModules)
    #expect(Set(decoded.rankPattern.entries) == Set(original.rankPattern.entries))
    #expect(throws: DecodingError.self) {
      try JSONDecoder().decode(PeftConfig.self, from: Data(#"{"peft_type":"LORA","r":"x"}"#.utf8))
    }
  }

  @Test func anAdaptersConfigMayBeNamedConfigJson() throws {
    let scratch = try ScratchDirectory()
    try overwrite(scratch("config.json"), #"{"model_type": "llama"}"#)
    let error = #expect(throws: AdapterError.self) { try PeftConfig.load(directory: scratch.path) }
    #expect(error.map(caseName) == "configMissing")
    try overwrite(scratch("config.json"), try text("current/numbers.json"))
    #expect(try PeftConfig.load(directory: scratch.path).rank == 64)
  }

  @Test func contradictionsThatPEFTRefusesAreRefused() throws {
    for source in [
      #"{"peft_type":"LORA","target_modules":"x","layers_to_transform":[1]}"#,
      #"{"peft_type":"LORA","target_modules":["x"],"layers_pattern":"h"}"#,
      #"{"peft_type":"LORA","use_dora":true,"lora_bias":true}"#,
      #"{"peft_type":"LORA","use_dora":true,"megatron_config":{"a":1}}"#,
    ] {
      let json = try #require(JSONValue(parsing: source))
      let error = #expect(throws: AdapterError.self) { try PeftConfig(json: json, path: "x") }
      #expect(error.map(caseName) == "configContradiction", "\(source)")
    }
    let error = #expect(throws: AdapterError.self) {
      try PeftConfig(json: .object([.init("peft_type", .string("LORAX"))]), path: "x")
    }
    #expect(error.map(caseName) == "unknownPeftType" && error?.description.contains("FOURIERFT") == true)
  }

  @Test(arguments: [
    #""unsloth_fixed": true"#, #""lora_dtype": "bfloat16""#, #""lorap_lr_ratio": 16.0"#, #""lorap_emb_lr": 1e-06"#,
    #""swift_type": "LORA""#, #""merge_weights": true"#, #""transformers_version": "4.51.3""#, #""use_qa_lora": false"#,
    #""model_key_mapping": null"#, #""enable_lora": null"#, #""layers_pattern": """#, #""peft_version": 0.15"#,
  ])
  func whatChangesNoNumberPasses(member: String) throws {
    let json = try #require(JSONValue(parsing: #"{"peft_type": "LORA", "target_modules": ["q_proj"], \#(member)}"#))
    let config = try PeftConfig(json: json, path: "x")
    try config.checkUnknownKeys(path: "x")
    #expect(config.json[json.members?.last?.key ?? ""] == json.members?.last?.value)
  }

  @Test(arguments: [#""enable_lora": [true, false]"#, #""use_qa_lora": true"#, #""use_merged_linear": true"#])
  func whatMayChangeANumberDoesNot(member: String) throws {
    let json = try #require(JSONValue(parsing: #"{"peft_type": "LORA", \#(member)}"#))
    let error = #expect(throws: AdapterError.self) { try PeftConfig(json: json, path: "x").checkUnknownKeys(path: "x") }
    #expect(error.map(caseName) == "unknownConfigKey")
  }

  /// Every key of every method's configuration that PEFT 0.21.2 lets be null.
  @Test(arguments: MethodTests.cases) func aFlagMayBeNull(name: String) throws {
    let json = try JSONValue(contentsOf: Fixtures.path("methods/\(name)/adapter/adapter_config.json"))
    let whole = try PeftConfig(json: json, path: "x")
    for member in json.members ?? [] where member.value.boolValue == false {
      var loose = json
      loose[member.key] = .null
      let config = try PeftConfig(json: loose, path: "x")
      try config.checkUnknownKeys(path: "x")
      #expect(config.fanInFanOut == whole.fanInFanOut && config.inferenceMode == whole.inferenceMode, "\(member.key)")
      #expect(config.json[member.key] == .null, "\(member.key)")
    }
  }
}
