import PEFT
import Synchronization
import TensorFiles
import TestSupport
import Testing

@testable import PeftToolCLI

@Suite struct CommandLineTests {
  private let base = Fixtures.path("merge/llama-f32-qv/base")
  private let adapter = Fixtures.path("merge/llama-f32-qv/adapter")

  @Test func mergeSaysWhatItMatched() async throws {
    let scratch = try ScratchDirectory()
    let answer = await run("merge", base, adapter, scratch("out"))
    #expect(answer.code == 0 && answer.error.isEmpty)
    #expect(answer.output.hasPrefix("4 of 4 adapter modules matched\nwrote \(scratch("out")): 21 tensors, "))
    let again = await run("merge", base, adapter, scratch("out"))
    #expect(again.code == 2 && again.error.contains("Pass --force"))
    #expect(await run("merge", "--force", base, adapter, scratch("out")).code == 0)
    let verdict = await run("diff", "--tolerance=1e-6", scratch("out"), Fixtures.path("merge/llama-f32-qv/merged"))
    #expect(verdict.code == 0)
    let other = await run("diff", scratch("out"), base)
    #expect(other.code == 1 && other.output.contains("changed  model.layers.0.self_attn.q_proj.weight"))
  }

  @Test func aDryRunWritesNothing() async throws {
    let scratch = try ScratchDirectory()
    let answer = await run("merge", "-n", base, adapter, scratch("out"))
    #expect(answer.code == 0)
    for part in ["4 of 4", "peak memory", "disk needed", "shards", "model.safetensors"] {
      #expect(answer.output.contains(part))
    }
    #expect(try FileSystem.names(in: scratch.path).isEmpty)
    let json = await run("merge", "--dry-run", "--json", base, adapter, scratch("out"))
    #expect(JSONValue(parsing: json.output)?["matched"] == .integer(4))
  }

  @Test func verifyAnswersWithItsExitCode() async {
    let merged = Fixtures.path("merge/llama-f32-qv/merged")
    let yes = await run("verify", base, adapter, merged)
    #expect(
      yes.code == 0 && yes.output.hasPrefix("4 of 4 merged tensors are what the merge makes them\n17 of 17 other"))
    let no = await run("verify", base, "\(adapter):0.5", merged)
    #expect(no.code == 1 && no.output.contains("different   model.layers.0.self_attn.q_proj.weight"))
    let json = await run("verify", "--json", base, adapter, base)
    #expect(json.code == 1 && JSONValue(parsing: json.output)?["agree"] == .bool(false))
  }

  @Test func adaptersTakeWeightsAndComeOutAgain() async throws {
    let scratch = try ScratchDirectory()
    let merged = await run("merge", base, "\(adapter):0.25", adapter, scratch("out"))
    #expect(merged.code == 0 && merged.output.hasPrefix("8 of 8"), "\(merged.error)")
    let back = await run("unmerge", scratch("out"), "\(adapter):1.25", scratch("back"))
    #expect(back.code == 0 && back.output.contains("within one unit in the last place"))
    #expect(await run("diff", "--tolerance", "1e-6", base, scratch("back")).code == 0)
    #expect(await run("merge", base, "\(adapter):x", scratch("no")).code == 2)
  }

  @Test func unmergeSaysWhatItKnows() async throws {
    let scratch = try ScratchDirectory()
    let merged = Fixtures.path("merge/llama-f32-qv/merged")
    let unrecorded = await run("unmerge", merged, adapter, scratch("unrecorded"))
    #expect(unrecorded.code == 0 && unrecorded.error.contains("nothing is promised"))
    #expect(!unrecorded.output.contains("one unit"))
    _ = await run("merge", base, adapter, scratch("out"))
    let weight = await run("unmerge", scratch("out"), "\(adapter):0.5", scratch("no"))
    #expect(weight.code == 2 && weight.error.contains("with weight 1.0") && !weight.error.contains("-0.5"))
    let other = await run("unmerge", scratch("out"), Fixtures.path("merge/llama-patterns/adapter"), scratch("no"))
    #expect(other.code == 2 && other.error.contains("does not say that the adapter"))
    let json = await run("unmerge", "--json", scratch("out"), adapter, scratch("json"))
    #expect(JSONValue(parsing: json.output)?["restoration"] == .string("last-merge"))
    #expect(await run("unmerge", "--allow-repeated", scratch("out"), adapter, scratch("no")).code == 2)
    #expect(FileSystem.kind(scratch("no")) == nil)
  }

  @Test(arguments: ["nan", "inf", "-inf", "1e999", "1e308", "NAN"])
  func aWeightThatIsNoFiniteNumberIsRefused(weight: String) async throws {
    let scratch = try ScratchDirectory()
    for command in ["merge", "unmerge", "verify"] {
      let answer = await run(command, base, "\(adapter):\(weight)", scratch("out"))
      #expect(answer.code == 2, "\(command)")
      #expect(answer.error.contains(adapter), "\(answer.error)")
    }
    #expect(FileSystem.kind(scratch("out")) == nil)
  }

  @Test func verifyReportsWhatDiffersBesideTheTensors() async throws {
    let scratch = try ScratchDirectory()
    let peft = Fixtures.path("merge/llama-f32-qv/merged")
    let answer = await run("verify", base, adapter, peft)
    #expect(
      answer.code == 0 && answer.output.contains("note        metadata of model.safetensors: no record of merges"))
    try copyDirectory(peft, to: scratch("model"))
    let text = try FileSystem.text(scratch("model/config.json"))
    try overwrite(
      scratch("model/config.json"), text.replacing("\"hidden_act\": \"silu\"", with: "\"hidden_act\": \"gelu\""))
    let changed = await run("verify", base, adapter, scratch("model"))
    #expect(changed.code == 1)
    #expect(
      changed.output.contains("different   config of config.json: 'hidden_act' is \"gelu\"; the merge writes \"silu\""))
    let json = await run("verify", "--json", base, adapter, scratch("model"))
    #expect(JSONValue(parsing: json.output)?["files"]?.elements?.count == 2)
  }

  @Test func verifySaysInWhichUnitAModelDiffersAndAllowsForPEFT() async throws {
    let root = Fixtures.path("rounding/lora-bf16")
    let words = ["\(root)/base", "\(root)/adapter", "\(root)/safe"]
    let strict = await run(["verify"] + words)
    #expect(strict.code == 1 && strict.output.contains(" ulp") && strict.error.contains("--as-peft"))
    #expect(await run(["verify", "--as-peft"] + words).code == 0)
  }

  @Test func countPrintsPEFTsLine() async throws {
    let answer = await run("count", base, adapter)
    #expect(try answer.output == FileSystem.text(Fixtures.path("merge/llama-f32-qv/count.txt")))
    #expect(await run("count", base, "\(adapter)/adapter_config.json").output == answer.output)
  }

  @Test func aBrokenFileOfWeightsIsNotCounted() async throws {
    let scratch = try ScratchDirectory()
    try copyDirectory(adapter, to: scratch("adapter"))
    let bytes = try contents("\(adapter)/adapter_model.safetensors")
    for broken in [Array(bytes.dropLast(64)), Array(bytes.prefix(7)), Array(bytes.dropFirst())] {
      try overwrite(scratch("adapter/adapter_model.safetensors"), broken)
      let answer = await run("count", base, scratch("adapter"))
      #expect(answer.code == 2 && answer.output.isEmpty && answer.error.contains("adapter_model.safetensors"))
    }
    // A shard is not a whole adapter; a directory with a configuration alone is counted by it.
    try FileSystem.remove(scratch("adapter/adapter_model.safetensors"))
    #expect(await run("count", base, scratch("adapter")).output == run("count", base, adapter).output)
    try overwrite(scratch("adapter/adapter_model-00001-of-00002.safetensors"), bytes)
    #expect(await run("count", base, scratch("adapter")).code == 2)
  }

  @Test func inspectSpeaksToPeopleAndMachines() async {
    let answer = await run("inspect", adapter)
    #expect(answer.output.contains("model.layers.{0-1}.self_attn.q_proj  2      4  8      2      4x16  16x4  F32"))
    let json = await run("inspect", "--json", adapter)
    #expect(JSONValue(parsing: json.output)?["r"] == .integer(4))
  }

  @Test func initMakesAnAdapterThatInspectReads() async throws {
    let scratch = try ScratchDirectory()
    #expect(await run("init", base, "\(adapter)/adapter_config.json", scratch("new"), "--seed", "3").code == 0)
    #expect(await run("inspect", scratch("new")).code == 0)
  }

  @Test(arguments: [
    (["mrege"], "Did you mean 'merge' or 'tree'?"),
    (["merge", "--dryrun", "a", "b", "c"], "Did you mean '--dry-run'?"),
    (["merge", "a"], "expected at least 3 operands (BASE ADAPTER... OUT), found 1"),
    (["merge", "--threads"], "needs a value"),
    (["merge", "--force=1", "a", "b", "c"], "takes no value"), ([], "no command given"),
    (["merge", "--threads=x", "a", "b", "c"], "is not a whole number"),
    (["inspect", "-z", "a"], "unknown option '-z'"),
    (["merge", "--max-shard-size", "big", "a", "b", "c"], "expected a positive number of bytes"),
  ])
  func wrongUsageIsCodeTwoAndSaysWhatIsRight(words: [String], part: String) async {
    let error = Collected()
    let console = Console(output: { _ in }, error: { text in error.text.withLock { $0 += text } })
    #expect(await CommandLineTool(console: console).run(words) == 2)
    #expect(error.text.withLock { $0 }.contains(part), "\(error.text.withLock { $0 })")
  }

  @Test func wordsAreReadByGNUsConventions() throws {
    let merge = try #require(CommandTable.commands.first { $0.name == "merge" })
    let joined = try merge.parse(["-nf", "a", "--max-shard-size=5GB", "b", "--", "--c"])
    #expect(joined.has("dry-run") && joined.has("force") && joined.operands == ["a", "b", "--c"])
    #expect(joined.value("max-shard-size") == "5GB")
    let abbreviated = try merge.parse(["--max", "1MB", "a", "b", "c", "--ignore=x", "--ignore-config-key", "y"])
    #expect(abbreviated.value("max-shard-size") == "1MB" && abbreviated.all("ignore-config-key") == ["x", "y"])
    #expect(throws: UsageError.self) { try merge.parse(["--allow", "a", "b", "c"]) }
  }

  @Test(arguments: ["--help", "merge --help", "man", "completions bash", "completions zsh", "completions fish"])
  func textsMadeFromTheTableAreAsRecorded(words: String) async throws {
    let output = Collected()
    let console = Console(output: { text in output.text.withLock { $0 += text } }, error: { _ in })
    #expect(await CommandLineTool(console: console).run(words.split(separator: " ").map(String.init)) == 0)
    let name = words.replacing("--", with: "").replacing(" ", with: "-")
    let snapshot = "\(Fixtures.root)/Tests/PeftToolCLITests/Snapshots/\(name).txt"
    #expect(try output.text.withLock { $0 } == FileSystem.text(snapshot), "\(snapshot)")
  }

  @Test(arguments: [("5GB", 5_000_000_000), ("1 MiB", 1_048_576), ("12", 12), ("1.5kb", 1500)])
  func sizesHaveUnits(text: String, bytes: Int) {
    #expect(parseBytes(text) == bytes)
    #expect(parseBytes("-\(text)") == nil)
  }
}
