import PEFT
import Synchronization
import TensorFiles
import TestSupport
import Testing

@testable import PeftToolCLI

/// What the tool says of wrong words, of progress and of its end.
@Suite struct MessageTests {
  private static let root = Fixtures.path("merge/llama-f32-qv")
  private static let chat = Fixtures.path("running/chat")

  @Test(arguments: [
    (["inspect", "/nonexistent"], "/nonexistent: no such file or directory (ADAPTER)"),
    (["merge", "./nosuch", "\(root)/adapter", "out"], "./nosuch: no such file or directory (BASE)"),
    (["merge", "\(root)/base", "./nosuch:0.5", "out"], "./nosuch: no such file or directory (ADAPTER)"),
    (["count", "\(root)/base", "a/b/nosuch"], "a/b/nosuch: no such file or directory (ADAPTER)"),
    (["diff", "\(root)/base", "\(root)/adapter:0.5"], "adapter:0.5: no such file or directory (B)"),
    (["init", "\(root)/base", "nosuch.json", "out"], "nosuch.json: no such file or directory (CONFIG)"),
    (["inspect", "--base", "./nosuch", "\(root)/adapter"], "./nosuch: no such file or directory (--base)"),
    (["generate", chat, "-p", "a", "-a", "./nosuch:2"], "./nosuch: no such file or directory (--adapter)"),
    (["perplexity", chat, "nosuch"], "nosuch: no such file or directory (FILE)"),
    (
      ["merge", "--offline", "nosuch", "\(root)/adapter", "out"],
      "nosuch: no such file or directory (BASE). As a repository: "
    ),
    (["inspect", "adapter.safetensors"], "adapter.safetensors: no such file or directory (ADAPTER)."),
  ])
  func aPathThatIsNotThereSaysSo(words: [String], part: String) async {
    let answer = await run(words)
    #expect(answer.code == 2 && answer.output.isEmpty)
    #expect(answer.error.contains(part), "\(answer.error)")
  }

  @Test(arguments: ["merge", "verify", "unmerge"]) func aWordThatIsNoWeightIsNamed(command: String) async {
    let answer = await run(command, "\(Self.root)/base", "\(Self.root)/adapter:half", "\(Self.root)/merged")
    #expect(answer.code == 2 && answer.error.contains("the weight 'half' is no finite number"), "\(answer.error)")
  }

  /// The first model is a repository that would have to be fetched.
  @Test(arguments: [
    (["merge", "owner/base", "owner/adapter:half", "out"], "owner/adapter: the weight 'half' is no finite number"),
    (["merge", "owner/base", "hf://owner/adapter:inf", "out"], "hf://owner/adapter: the weight 'inf'"),
    (["verify", "owner/base", "\(root)/adapter:1e999", "\(root)/merged"], "adapter: the weight '1e999'"),
    (["generate", "owner/base", "-p", "a", "-a", "gpt2:x"], "gpt2: the weight 'x' is no finite number"),
    (["generate", "owner/base", "-p", "a", "-a", "./nosuch"], "./nosuch: no such file or directory (--adapter)"),
    (["merge", "owner/base", "./nosuch", "out"], "./nosuch: no such file or directory (ADAPTER)"),
    (["inspect", "hf://datasets/owner/name"], "expected a model, and not one of the hub's datasets"),
    (["inspect", "https://example.com/owner/name"], "expected a page of "),
    (["perplexity", "owner/base", "./nosuch"], "./nosuch: no such file or directory (FILE)"),
  ])
  func whatCanBeSeenWithoutTheHubIsSaidBeforeAnythingIsFetched(words: [String], part: String) async {
    // Fetching would end in another sentence.
    let answer = await run(words + ["--offline"])
    #expect(answer.code == 2 && answer.output.isEmpty)
    #expect(answer.error.contains(part), "\(answer.error)")
  }

  @Test(arguments: [
    (["generate", "owner/name"], "give one of: --prompt (the text to go on from; - reads it from standard "),
    (["generate", chat, "-p", "a", "--prompts", "b"], "--prompts and --prompt cannot be given together. Give one: "),
    (["generate", chat, "-p", "a", "--system", "b"], "--system means nothing without --chat"),
    (["inspect", "--for", "tgi", "\(root)/adapter"], "'tgi' is not one of vllm, "),
    (["completions", "tcsh"], "completions: SHELL: 'tcsh' is not one of bash, zsh, fish."),
    (["help", "mrege"], "unknown command 'mrege'. Did you mean 'merge'"),
    (["merge", "-v", "a", "b", "c"], "unknown option '-v'. Did you mean '-V'?"),
    (["generate", "owner/name", "-p", "a", "--top-k", "x"], "option '--top-k': 'x' is not a whole number"),
    (["generate", "owner/name", "-p", "a", "-t", "nan"], "option '--temperature': 'nan' is not a number"),
    (["generate", "owner/name"], "'peft-tool chat MODEL' is a conversation."),
    (["generate", "owner/name", "-p", "a", "--top-p", "1.5"], "option '--top-p': '1.5' is not a number from 0 to 1."),
    (["chat", "owner/name", "--top-k", "0"], "option '--top-k': '0' is not a whole number from 1."),
    (["generate", "owner/name", "-p", "a", "--seed", "-1"], "option '--seed': '-1' is not a whole number from 0."),
    (
      ["merge", "owner/name", "a", "b", "--threads", "0"],
      "option '--threads': '0' is not a whole number from 1 to 256."
    ),
    (["generate", "owner/name", "-p", "a", "--chat-argument", "x=1"], "--chat-argument means nothing without --chat"),
    (["merge", "--progress=loud", "a", "b", "c"], "option '--progress': 'loud' is not one of bar, json, none"),
  ])
  func wrongWordsAreRefusedBeforeAnythingIsSaidOrFetched(words: [String], part: String) async {
    let answer = await run(words)
    #expect(answer.code == 2 && answer.output.isEmpty)
    #expect(answer.error.contains(part), "\(answer.error)")
  }

  @Test(arguments: [["-v"], ["version"], ["-V"], ["--version"], ["merge", "--version"], ["--quiet", "version"]])
  func theVersionIsThereUnderEachOfItsNames(words: [String]) async {
    #expect(await run(words).output == "peft-tool \(Provenance.version)\n")
  }

  @Test func quietLeavesTheAnswerAndFailures() async throws {
    let scratch = try ScratchDirectory()
    let merged = await run("--quiet", "merge", "\(Self.root)/base", "\(Self.root)/adapter", scratch("out"))
    #expect(merged.code == 0 && merged.output.isEmpty && merged.error.isEmpty)
    let converted = await run("convert", "-q", "\(Self.root)/base", scratch("converted"))
    #expect(converted.code == 0 && converted.output.isEmpty)
    #expect(await run("count", "-q", "\(Self.root)/base", "\(Self.root)/adapter").output.hasPrefix("trainable params"))
    #expect(await !run("-q", "merge", "\(Self.root)/base", "nosuch", scratch("no")).error.isEmpty)
  }

  @Test func whatWasDoneIsSaidToMachinesToo() async throws {
    let scratch = try ScratchDirectory()
    let config = "\(Self.root)/adapter/adapter_config.json"
    let made = JSONValue(parsing: await run("init", "--json", "\(Self.root)/base", config, scratch("new")).output)
    #expect(made?["modules"] == .integer(4) && made?["output"] == .string(scratch("new")))
    let converted = JSONValue(parsing: await run("convert", "--json", scratch("new"), scratch("again")).output)
    #expect(converted?["kind"] == .string("adapter") && converted?["tensors"] == .integer(8))
    let tree = JSONValue(parsing: await run("tree", "--json", Fixtures.path("running/base")).output)
    #expect(tree?["tree"]?.stringValue?.hasPrefix("LlamaForCausalLM(") == true)
  }

  @Test func everyCommandThatAnswersDoesSoForMachinesToo() async throws {
    for command in CommandTable.commands where !["man", "completions"].contains(command.name) {
      #expect(command.flags.contains { $0.name == "json" }, "\(command.name)")
    }
    let scratch = try ScratchDirectory()
    let (base, adapter) = ("\(Self.root)/base", "\(Self.root)/adapter")
    try OpenFile.create(scratch("text")).write("The quick brown fox.")
    for words in [
      ["merge", base, adapter, scratch("out")], ["merge", "-n", base, adapter, scratch("plan")],
      ["verify", base, adapter, scratch("out")], ["unmerge", scratch("out"), adapter, scratch("back")],
      ["inspect", adapter, "--stats"], ["inspect", adapter, "--base", base], ["inspect", adapter, "--for", "vllm"],
      ["validate", adapter], ["validate", base], ["count", base, adapter], ["diff", base, scratch("out")],
      ["convert", base, scratch("converted")], ["init", base, "\(adapter)/adapter_config.json", scratch("fresh")],
      ["generate", Self.chat, "-p", "a", "-n", "2"], ["perplexity", Self.chat, scratch("text")], ["tree", Self.chat],
    ] {
      let answer = await run(words + ["--json"])
      #expect(answer.code < 2 && answer.output.filter { $0 == "\n" }.count == 1, "\(words): \(answer.error)")
      #expect(JSONValue(parsing: answer.output)?.members?.isEmpty == false, "\(words): \(answer.output)")
    }
  }

  @Test func progressForMachinesEndsWithAllBytes() async throws {
    let scratch = try ScratchDirectory()
    let words = ["merge", "--progress=json", "\(Self.root)/base", "\(Self.root)/adapter", scratch("out")]
    let lines = await run(words).error.split(separator: "\n")
    let last = lines.last.flatMap { JSONValue(parsing: String($0)) }?["progress"]
    #expect(last?["total"] != nil && last?["done"] == last?["total"])
    #expect(await run(words.filter { !$0.hasPrefix("--") } + ["--force"]).error.isEmpty)
  }

  @Test(arguments: [200, 80, 60, 40, 20, 8, 2, 1])
  func theBarFitsTheTerminal(width: Int) {
    let text = ProgressBar.text(done: 3_000_000_000, total: 12_000_000_000, rate: 120_000_000, width: width)
    #expect(text.count < width, "\(text)")
    if width >= 60 { #expect(text.hasSuffix("] 25%  3.00 GB of 12.0 GB  120 MB/s  1:15 left")) }
    if width == 20 { #expect(text.contains("25%")) }
  }

  @Test func aLineStandsWhereTheBarWas() {
    let said = Collected()
    let console = Console(
      output: { _ in }, error: { text in said.text.withLock { $0 += text } }, showsProgress: true)
    let bar = ProgressBar(console)
    bar.update(done: 1, total: 2)
    console.failure("no space")
    console.failure("again")
    let text = said.text.withLock { $0 }
    #expect(
      text.hasPrefix("\r[") && text.hasSuffix("\u{1B}[K\r\u{1B}[Kpeft-tool: no space\npeft-tool: again\n"), "\(text)")
  }
}
