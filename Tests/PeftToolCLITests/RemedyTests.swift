import PEFT
import TensorFiles
import TestSupport
import Testing

@testable import PeftToolCLI

@Suite struct RemedyTests {
  private static let inner = AdapterError.patternInvalid(pattern: "(", offset: 1, reason: "missing )")

  /// One error of every case.
  static let errors: [AdapterError] = [
    .file(.outputExists(path: "out")), .configMissing(directory: "d"), .configNotObject(path: "p"),
    .configValue(path: "p", key: "k", expected: "a", found: "b"), .configContradiction(path: "p", reason: "r."),
    .unknownConfigKey(path: "p", key: "k", value: "1"), .unknownPeftType(path: "p", found: "X"), inner,
    .patternUnsupported(pattern: "(", construct: "c"), .patternRunaway(pattern: "(", subject: "s"),
    .configPattern(path: "p", inner), .weightsMissing(directory: "d", found: ["a.bin"]), .noTensors(path: "p"),
    .tensorUnexpected(path: "p", tensor: "t"), .unpaired(path: "p", module: "m", present: "lora_A"),
    .tensorRepeated(path: "p", tensor: "t", other: "u"),
    .rankMismatch(path: "p", module: "m", expectedRank: 1, shapeA: [1], shapeB: [2]),
    .adapterDType(path: "p", tensor: "t", dtype: .i8), .tensorMissing(path: "p", module: "m", tensor: "t"),
    .methodShape(path: "p", tensor: "t", found: [1], expected: [[2]]), .methodIndex(path: "p", tensor: "t", limit: 3),
    .unsupported(path: "p", what: "w", reason: "r."), .notPossible(path: "p", what: "w", reason: "r."),
    .optionNeeded(path: "p", what: "w", reason: "r.", option: .giveRanks),
    .optionNeeded(path: "p", what: "w", reason: "r.", option: .giveBase),
    .optionNeeded(path: "p", what: "w", reason: "r.", option: .giveBaseForPlainLoRA),
    .optionNeeded(path: "p", what: "w", reason: "r.", option: .averageSaved),
    .notMade(path: "p", what: "w", reason: "r."), .freshTensorTooLarge(path: "p", tensor: "t", shape: [1]),
    .uncountable(path: "p", what: "w", reason: "r."), .moduleNotTargeted(path: "p", module: "m", targets: "t"),
    .unmatched(base: "b", modules: ["m"], matched: 0, total: 1, nearest: ["n"]),
    .ambiguous(base: "b", module: "m", candidates: ["c"]), .collision(base: "b", tensor: "t", modules: ["m", "n"]),
    .shapeMismatch(base: "b", tensor: "t", found: [1], expected: [2]), .baseDType(base: "b", tensor: "t", dtype: .i8),
    .missingFromAdapter(path: "p", modules: ["m"]),
    .nothingTargeted(base: "b", targets: "t", candidates: ["c"], nearest: ["n"]),
    .targetNotLinear(base: "b", module: "m", shape: [1]), .baseConfigMissing(base: "b", reason: "r."),
    .replacementShape(base: "b", tensor: "t", found: [1], replacement: [2]),
    .notInCache(name: "n", revision: "main", cache: "c"), .download(name: "n", reason: "r"),
    .alreadyMerged(base: "b", adapter: "a", weight: 1), .shardSize(found: "x"),
    .foreignContent(path: "p", reason: "r"),
    .notConvertible(path: "p", []), .foreignAdapter(path: "p", format: .mlx),
    .adapterNotFinite(path: "p", tensor: "t", module: "m", count: 1, of: 2),
    .factorNotFinite(path: "p", module: "m", factor: .infinity),
    .conflict(base: "b", tensor: "t", adapters: ["a", "c"]),
    .quantizedBase(base: "b", method: "gptq", module: "m"),
    .incompleteInCache(name: "n", directory: "d", missing: ["model.safetensors"]),
    .hubRefused(name: "n", revision: "main", page: "u", status: 401, code: "", hasToken: false),
    .hubBusy(name: "n", reason: "r", seconds: 300), .downloadInterrupted(name: "n"),
    .notMerged(model: "m", adapter: "a", weight: 1, merged: []), .configChanged(model: "m", path: "p"),
    .badAddress(found: "f", expected: "e"), .overwritten(model: "m", adapter: "a", tensor: "t", by: "b"),
    .irreversible(path: "p", what: "w", reason: "r."), .parts(.missing(staging: "s", parts: [1], count: 2)),
    .file(
      .resultNotFinite(path: "p", tensor: "t", dtype: .f16, element: [0], cameSo: false)),
  ]

  @Test func everyCaseOfAnErrorIsLookedAt() throws {
    let source = try FileSystem.text(FileSystem.join(Fixtures.root, "Sources/PEFT/Adapter/AdapterError.swift"))
    var names: Set<String> = []
    for line in source.split(separator: "\n") {
      let words = line.split(separator: " ")
      guard let index = words.firstIndex(of: "case"), words.first == "case" || words.first == "indirect",
        index + 1 < words.count, words[index + 1].contains("(")
      else { continue }
      names.insert(String(words[index + 1].prefix { $0.isLetter }))
    }
    let found = Set(Self.errors.map { Mirror(reflecting: $0).children.first?.label ?? "" })
    #expect(names.count > 30 && names.subtracting(found).subtracting(["let"]) == [], "\(names.subtracting(found))")
  }

  /// Words that look like options.
  private func flags(in text: String) -> [String] {
    text.split { " ,.;:'()\n".contains($0) }.filter { $0.hasPrefix("--") }.map { String($0.dropFirst(2)) }
  }

  @Test func noCommandIsToldAFlagThatItDoesNotTake() {
    for command in CommandTable.commands {
      for error in Self.errors {
        let text = ErrorText.text(error, of: command)
        for flag in flags(in: text) {
          #expect(command.allFlags.contains { $0.name == flag }, "\(command.name): \(text)")
        }
      }
    }
  }

  @Test func everyRemedyIsAFlagOfSomeCommandAndAnOptionOfTheLibrary() {
    for kind in Remedy.Kind.allCases {
      #expect(CommandTable.commands.contains { $0.allFlags.contains { $0.remedy == kind } }, "\(kind)")
      #expect(Self.errors.contains { $0.remedy?.kind == kind }, "\(kind)")
    }
    for error in Self.errors { #expect(flags(in: error.description).isEmpty, "\(error.description)") }
  }

  @Test func commandsWithoutTheFlagNameTheFactsOnly() async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv")
    try copyDirectory("\(root)/adapter", to: scratch("adapter"))
    var json = try JSONValue(contentsOf: scratch("adapter/adapter_config.json"))
    json["new_thing"] = .bool(true)
    try overwrite(scratch("adapter/adapter_config.json"), json.compactText)
    let merge = await run("merge", "\(root)/base", scratch("adapter"), scratch("out"))
    #expect(merge.code == 2 && merge.error.contains("pass --ignore-config-key new_thing"))
    let inspect = await run("inspect", scratch("adapter"), "--base", "\(root)/base")
    #expect(inspect.code == 1 && inspect.output.contains("new_thing") && !inspect.output.contains("--"))
    let tree = await run("tree", "\(root)/base", scratch("adapter"))
    #expect(tree.code == 2 && tree.error.contains("new_thing") && !tree.error.contains("--"))
  }
}
