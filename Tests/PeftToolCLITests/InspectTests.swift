import PEFT
import TensorFiles
import TestSupport
import Testing

@Suite struct InspectTests {
  @Test func validateIsOneLineAFindingAndCodeOne() async throws {
    let good = await run("validate", Fixtures.path("merge/llama-f32-qv/adapter"))
    #expect(good.code == 0 && good.output.contains("nothing wrong found"))
    let bad = await run("validate", Fixtures.path("safetensors"))
    #expect(bad.code == 1 && !bad.output.isEmpty)
    let json = await run("validate", "--json", Fixtures.path("safetensors"))
    #expect(json.code == 1 && JSONValue(parsing: json.output)?["valid"] == .bool(false))
    #expect(await run("validate", "/nonexistent").code == 2)
  }

  /// `validate` has no flag that goes past an unknown key, and `merge` refuses such an adapter.
  @Test func anUnknownKeyIsFoundWithoutARemedyThatTheCommandLacks() async throws {
    let scratch = try ScratchDirectory()
    let source = Fixtures.path("rounding/loha-bf16/adapter")
    try FileSystem.makeDirectory(scratch("adapter"))
    var config = try JSONValue(contentsOf: "\(source)/adapter_config.json")
    config["odd_scale"] = .integer(3)
    try overwrite(scratch("adapter/adapter_config.json"), config.compactText)
    try overwrite(scratch("adapter/adapter_model.safetensors"), contents("\(source)/adapter_model.safetensors"))
    let found = await run("validate", scratch("adapter"))
    #expect(found.code == 1 && found.output.contains("'odd_scale'") && !found.output.contains("MergeOptions"))
    let served = await run("inspect", scratch("adapter"), "--for", "vllm")
    #expect(served.code == 1 && served.output.contains("OUT --ignore-config-key odd_scale, if"))
  }

  /// A configuration is as long as its maker likes.
  @Test(arguments: ["target_modules", "modules_to_save", "odd", "base_model_name_or_path", "pattern"])
  func whatIsLongInAConfigurationIsShortInWordsAndWholeInJSON(key: String) async throws {
    let scratch = try ScratchDirectory()
    let source = Fixtures.path("merge/llama-f32-qv/adapter")
    try copyDirectory(source, to: scratch("adapter"))
    var config = try JSONValue(contentsOf: "\(source)/adapter_config.json")
    let names = (0..<300_000).map { "name\($0)" }
    switch key {
    case "odd": for name in names.prefix(5000) { config[name] = .string(name) }
    case "base_model_name_or_path": config[key] = .string(names.joined(separator: "/"))
    case "pattern": config["target_modules"] = .string("q_proj|v_proj|" + names.prefix(9000).joined(separator: "|"))
    case "modules_to_save": config[key] = .array(names.map { .string($0) })
    default: config[key] = .array((["q_proj", "v_proj"] + names).map { .string($0) })
    }
    try overwrite(scratch("adapter/adapter_config.json"), config.compactText)
    let answer = await run("inspect", scratch("adapter"))
    #expect(answer.code == 0 && answer.output.utf8.count < 4000, "\(answer.output.prefix(2000))")
    let ending = ["base_model_name_or_path", "pattern"].contains(key) ? "…" : "more"
    #expect(answer.output.contains { $0.isNewline } && answer.output.contains(ending))
    if key != "pattern" { #expect(answer.output.contains("name1")) }
    let whole = await run("inspect", "--json", scratch("adapter"))
    #expect(whole.output.contains(key == "odd" ? "name4999" : key == "pattern" ? "name8999" : "name299999"))
  }

  /// A name with a part for each of many layers, beside others in one column.
  @Test func aNameOfManyLayersThatAreNoRangeIsBounded() async throws {
    let scratch = try ScratchDirectory()
    let adapter = try manyModules((0..<2000).map { "model.layers.\(2 * $0).q_proj" }, in: scratch)
    let answer = await run("inspect", adapter)
    #expect(answer.code == 0 && answer.output.utf8.count < 3000, "\(answer.output)")
    #expect(answer.output.contains("{0,2,4,6,") && answer.output.contains(",…,3998}") && answer.output.contains("2000"))
  }

  @Test func controlCharactersFromFilesAreEscaped() async throws {
    let answer = await run("inspect", "/nonexistent/\u{1B}[31mred\u{7}")
    #expect(answer.code == 2 && !answer.error.contains("\u{1B}") && !answer.error.contains("\u{7}"))
  }

  /// An adapter whose names and values are those of someone who wants to be read as something else.
  private func hostileAdapter(_ text: String) throws -> ScratchDirectory {
    let scratch = try ScratchDirectory()
    let source = Fixtures.path("merge/llama-f32-qv/adapter")
    try FileSystem.makeDirectory(scratch("adapter"))
    var config = try JSONValue(contentsOf: "\(source)/adapter_config.json")
    config["base_model_name_or_path"] = .string(text)
    try overwrite(scratch("adapter/adapter_config.json"), config.compactText)
    try renameTensors("\(source)/adapter_model.safetensors", to: scratch("adapter/adapter_model.safetensors")) {
      $0.replacing("layers.0.", with: "layers.0.\(text).")
    }
    return scratch
  }

  @Test func namesAndValuesInFilesCannotControlTheTerminal() async throws {
    let scratch = try hostileAdapter("\u{1B}[31m\u{9B}2J\u{7}x")
    let (adapter, base) = (scratch("adapter"), Fixtures.path("merge/llama-f32-qv/base"))
    var shown = 0
    for words in [
      ["inspect", adapter], ["inspect", adapter, "--base", base], ["tree", adapter], ["validate", adapter],
      ["inspect", adapter, "--stats"], ["merge", base, adapter, scratch("out")], ["count", base, adapter],
    ] {
      let answer = await run(words)
      let text = answer.output + answer.error
      #expect(!text.unicodeScalars.contains { $0.value == 0x1B || $0.value == 0x9B || $0.value == 7 }, "\(words)")
      if text.contains("[31m") { shown += 1 }
    }
    #expect(shown > 2)
  }

  @Test func inspectSaysWhetherABaseFitsAndWhatServersRefuse() async throws {
    let adapter = Fixtures.path("merge/llama-dora/adapter")
    let fits = await run("inspect", adapter, "--base", Fixtures.path("merge/llama-dora/base"))
    #expect(fits.code == 0 && fits.output.contains("verdict: compatible, all 4 modules matched"))
    let other = await run("inspect", adapter, "--base", Fixtures.path("merge/gpt2-conv1d/base"))
    #expect(other.code == 1 && other.output.contains("verdict: not compatible"))
    let served = await run("inspect", adapter, "--for", "vllm", "--json")
    #expect(served.code == 1)
    #expect(JSONValue(parsing: served.output)?["serving"]?["servable"] == .bool(false))
    #expect(await run("inspect", adapter, "--for", "nowhere").code == 2)
  }
}
