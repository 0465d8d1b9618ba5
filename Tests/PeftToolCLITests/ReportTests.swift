import Foundation
import PEFT
import TensorFiles
import TestSupport
import Testing

/// Pages: what they say, that names from files are text in them, and that their size has bounds.
@Suite struct ReportTests {
  private let adapter = Fixtures.path("merge/llama-bf16-all-linear/adapter")
  private let base = Fixtures.path("merge/llama-bf16-all-linear/base")

  /// The pieces of a text between two others.
  private func count(_ text: String, _ part: String) -> Int { text.components(separatedBy: part).count - 1 }

  private func page(_ words: [String], code: Int32 = 0) async throws -> String {
    let scratch = try ScratchDirectory()
    let answer = await run(words + ["--report", scratch("page.html")])
    #expect(answer.code == code, "\(answer.error)")
    return try FileSystem.text(scratch("page.html"))
  }

  @Test func aPageLoadsNothingRunsNothingAndOverwritesNothing() async throws {
    let scratch = try ScratchDirectory()
    #expect(await run("inspect", adapter, "--report", scratch("page.html")).code == 0)
    let page = try FileSystem.text(scratch("page.html"))
    #expect(!page.contains("http://") && !page.contains("https://") && !page.contains("src=") && !page.contains("url("))
    #expect(!page.contains("<script") && !page.contains("@import") && page.contains("default-src 'none'"))
    for words in [["inspect", adapter], ["diff", base, base], ["verify", base, adapter, base]] {
      let answer = await run(words + ["--report", scratch("page.html")])
      #expect(answer.code == 2 && answer.output.isEmpty && answer.error.contains("page.html"), "\(words)")
    }
    #expect(try FileSystem.text(scratch("page.html")) == page)
  }

  @Test func theVerdictStandsBeforeEverythingElse() async throws {
    for (words, word) in [
      (["inspect", adapter], "Healthy"), (["inspect", Fixtures.path("untrained/lora")], "Untrained"),
      (["inspect", Fixtures.path("methods/prompt-tuning/adapter")], "Undecided"),
    ] {
      let page = try await page(words)
      let verdict = try #require(page.firstRange(of: "id=\"verdict\""))
      let section = try #require(page.firstRange(of: "<section"))
      #expect(verdict.lowerBound < section.lowerBound)
      #expect(page[verdict.upperBound..<section.lowerBound].contains(word), "\(words)")
    }
    let other = Fixtures.path("merge/gpt2-conv1d/base")
    let misfit = try await page(["inspect", adapter, "--base", other], code: 1)
    #expect(misfit.contains("Broken") && misfit.contains("It does not fit the base"))
  }

  /// A prompt's tensor beside a method's is of no module that a merge knows.
  @Test func whatKeepsTheStatisticsFromBeingTakenIsTheVerdictsReason() async throws {
    let scratch = try ScratchDirectory()
    let source = Fixtures.path("methods/loha/adapter")
    try copyDirectory(source, to: scratch("adapter"))
    try FileSystem.remove(scratch("adapter/adapter_model.safetensors"))
    try renameTensors("\(source)/adapter_model.safetensors", to: scratch("adapter/adapter_model.safetensors")) {
      $0.contains("layers.0.self_attn.q_proj.hada_w1_a") ? "strange" : $0
    }
    let page = try await page(["inspect", scratch("adapter")])
    #expect(page.contains("Broken") && page.contains("strange"))
  }

  @Test func withABaseTheMapShowsSharesOfTheWeightAndWithoutOneTheMeanSquare() async throws {
    let alone = try await page(["inspect", adapter])
    let whole = try await page(["inspect", adapter, "--base", base])
    #expect(alone.contains("‖ΔW‖ / √elements") && !alone.contains("‖ΔW‖ / ‖W‖"))
    #expect(whole.contains("‖ΔW‖ / ‖W‖") && whole.contains("14 modules of 14 matched"))
    // Two layers of seven modules, each with a cell in two maps and a curve.
    for page in [alone, whole] { #expect(count(page, "<input type=\"radio\"") == 28 && count(page, "<polyline") == 14) }
    let rows = try await ModuleStatistics(directory: adapter, base: base).rows
    let row = try #require(rows.first { $0.path == "model.layers.1.mlp.up_proj" })
    let share = fixed(try #require(row.relativeNorm), 3)
    #expect(whole.contains("layer 1, mlp.up_proj: ‖ΔW‖/‖W‖ \(share),"))
  }

  @Test func theFactsNameRankAlphaScaleDtypeBaseMethodAndTargets() async throws {
    let page = try await page(["inspect", adapter])
    for (name, value) in [
      ("type", "LORA"), ("r, alpha", "4, 8 (scale = alpha/r)"), ("scale", "2"), ("dtype", "F32"),
      ("base model", "fixtures/llama-bf16-all-linear"),
    ] {
      #expect(page.contains("<dt>\(name)</dt><dd>\(value)</dd>"), "\(name)")
    }
    #expect(page.contains("<dt>targets</dt><dd>14 paths ending in down_proj"))
  }

  @Test func aPlotOfSingularValuesHasTheDecadesThatItsValuesTake() async throws {
    let page = try await page(["inspect", adapter])
    let rows = try await ModuleStatistics(directory: adapter).rows
    let shares = rows.flatMap { row in row.singularValues.map { $0 / row.singularValues[0] } }
    let labels = ["1", "0.1", "0.01", "0.001", "0.0001"].map { "dominant-baseline=\"middle\">\($0)</text>" }
    // The lowest line of all plots is the first that no value is below, but for the fourth.
    let lowest = try #require(labels.indices.last { page.contains(labels[$0]) })
    let least = try #require(shares.min())
    #expect(lowest == 4 || least >= [1, 0.1, 0.01, 0.001][lowest])
    #expect(lowest == 1 || least < [1, 0.1, 0.01, 0.001][lowest - 1])
  }

  @Test(arguments: ["ia3", "loha", "oft", "vera", "prompt-tuning", "ln-tuning", "trainable-tokens", "lokr-convolution"])
  func everyMethodHasAPageWithWhatApplies(name: String) async throws {
    let root = Fixtures.path("methods/\(name)")
    let alone = try await page(["inspect", "\(root)/adapter"])
    #expect(alone.contains("id=\"facts\"") && alone.contains("id=\"bytes\""))
    guard name != "prompt-tuning" else { return }
    let whole = try await page(["inspect", "\(root)/adapter", "--base", "\(root)/base"])
    #expect(whole.contains("Healthy") && whole.contains("id=\"spectra\"") && whole.contains("id=\"change-map\""))
  }

  @Test func namesAndValuesInFilesAreTextOnEveryPage() async throws {
    let hostile = "<script>x</script><img src='http://x' onerror=\"y\">\"'&\u{202E}"
    let scratch = try ScratchDirectory()
    let source = Fixtures.path("merge/llama-f32-qv")
    try FileSystem.makeDirectory(scratch("adapter"))
    var config = try JSONValue(contentsOf: "\(source)/adapter/adapter_config.json")
    config["base_model_name_or_path"] = .string(hostile)
    try overwrite(scratch("adapter/adapter_config.json"), config.compactText)
    try renameTensors("\(source)/adapter/adapter_model.safetensors", to: scratch("adapter/adapter_model.safetensors")) {
      $0.replacing("layers.0.", with: "layers.0.\(hostile).")
    }
    try renameTensors("\(source)/base/model.safetensors", to: scratch("model.safetensors")) {
      $0.replacing("layers.0.", with: "layers.0.\(hostile).")
    }
    let pages = [
      try await page(["inspect", scratch("adapter")]),
      try await page(["inspect", scratch("adapter"), "--compare", "\(source)/adapter"]),
      try await page(["inspect", "\(source)/adapter", "--compare", scratch("adapter")]),
      try await page(["diff", scratch("model.safetensors"), "\(source)/base"], code: 1),
      try await page(["verify", "\(source)/base", "\(source)/adapter", scratch("model.safetensors")], code: 1),
    ]
    for page in pages {
      #expect(!page.contains("<script") && !page.contains("<img") && !page.contains("\u{202E}"))
      #expect(page.contains("&lt;script&gt;") && page.contains("onerror=&quot;y&quot;"))
    }
  }

  @Test func twoAdaptersBesideEachOtherAreInTheTextInJSONAndOnThePage() async throws {
    let root = Fixtures.path("several/lora-f32")
    let words = ["inspect", "\(root)/one", "--compare", "\(root)/two"]
    let text = await run(words)
    #expect(
      text.code == 0 && text.output.contains("in all: cosine 0.0350, difference 1.44e+00 of this adapter's change"))
    let json = try #require(JSONValue(parsing: await run(words + ["--json"]).output)?["comparison"])
    #expect(json["modules"]?.elements?.count == 3 && json["only_in_first"]?.elements?.isEmpty == true)
    let page = try await page(words)
    #expect(page.contains("Compared with two") && page.contains("0.0350") && count(page, "class=\"map\"") == 5)
    let other = await run("inspect", "\(root)/one", "--compare", Fixtures.path("several/loha-f32/two"))
    #expect(other.output.contains("only in this adapter: model.embed_tokens"))
    #expect(await run("inspect", "\(root)/one", "--compare", "/nonexistent").code == 2)
  }

  @Test func diffAndVerifyWritePagesBesideTheirAnswers() async throws {
    let root = Fixtures.path("merge/llama-f32-qv")
    let differ = try await page(["diff", "\(root)/base", "\(root)/merged"], code: 1)
    #expect(differ.contains("Different") && differ.contains("17 identical, 4 different"))
    #expect(count(differ, "<input type=\"radio\"") == 21 && count(differ, "changed") == 4)
    let same = try await page(["diff", "\(root)/base", "\(root)/base"])
    #expect(same.contains("Identical") && !same.contains("<section"))
    let merge = try await page(["verify", "\(root)/base", "\(root)/adapter", "\(root)/merged"])
    #expect(merge.contains("It is the merge") && merge.contains("4 of 4 merged tensors"))
    let wrong = try await page(["verify", "\(root)/base", "\(root)/adapter", "\(root)/base", "--json"], code: 1)
    #expect(wrong.contains("It is not the merge") && wrong.contains("id=\"wrong\""))
  }

  @Test func aHundredLayersAreAHundredCellsARow() async throws {
    let scratch = try ScratchDirectory()
    let paths = (0..<100).flatMap { ["model.layers.\($0).self_attn.q_proj", "model.layers.\($0).mlp.up_proj"] }
    let page = try await page(["inspect", try manyModules(paths, in: scratch)])
    #expect(count(page, "<input type=\"radio\" name=\"change-map-0\"") == 100)
    #expect(count(page, "<input type=\"radio\" name=\"change-map-1\"") == 100)
    #expect(page.contains("--n:100"))
  }

  @Test(arguments: ["experts", "layers", "names"])
  func thePageOfThousandsOfModulesIsBoundedAndSaysWhatItLeavesOut(kind: String) async throws {
    let scratch = try ScratchDirectory()
    let paths = (0..<4000).map { index in
      switch kind {
      case "experts": "model.layers.\(index / 400).experts.\(index % 400).up_proj"
      case "layers": "model.layers.\(index).up_proj"
      default: "model.\(String(repeating: "long", count: 60))\(index).up_proj"
      }
    }
    let page = try await page(["inspect", try manyModules(paths, in: scratch)])
    #expect(page.utf8.count < 3_000_000, "\(page.utf8.count)")
    switch kind {
    case "experts": #expect(page.contains("experts.*.up_proj") && page.contains("400 modules, ‖ΔW‖/√elements"))
    case "layers": #expect(page.contains("1,600 modules not shown here"))
    default: #expect(page.contains("3,960 modules not shown here"))
    }
  }

  /// An encoder's and a decoder's layers have the same numbers.
  @Test func partsOfAModelWithLayersOfTheSameNumberHaveRowsOfTheirOwn() async throws {
    let scratch = try ScratchDirectory()
    let paths = ["encoder", "decoder"].flatMap { part in (0..<3).map { "\(part).block.\($0).q_proj" } } + ["lm_head"]
    let page = try await page(["inspect", try manyModules(paths, in: scratch)])
    for name in ["encoder.block.{}.q_proj", "decoder.block.{}.q_proj", "lm_head"] {
      #expect(page.contains("<h3>\(name)</h3>"), "\(name)")
    }
    #expect(count(page, "<input type=\"radio\" name=\"change-map-") == 7)
  }
}

/// An adapter of that many modules; every value is 1.
func manyModules(_ paths: [String], in scratch: ScratchDirectory) throws -> String {
  let directory = scratch("many")
  try FileSystem.makeDirectory(directory)
  let path = FileSystem.join(directory, "adapter_model.safetensors")
  let items = paths.flatMap { path in
    [("A", [1, 2]), ("B", [2, 1])].map { role, shape in
      SafetensorsLayout.Item(name: "base_model.model.\(path).lora_\(role).weight", dtype: .f32, shape: shape)
    }
  }
  let layout = try SafetensorsLayout(path: path, items: items)
  let file = try layout.create(at: path)
  for entry in layout.entries {
    try file.write([Float](repeating: 1, count: 2).span.bytes, at: entry.byteRange.lowerBound)
  }
  try overwrite(
    FileSystem.join(directory, "adapter_config.json"),
    #"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj", "up_proj"]}"#)
  return directory
}
