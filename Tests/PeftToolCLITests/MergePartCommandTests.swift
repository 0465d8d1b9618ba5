import PEFT
import TensorFiles
import TestSupport
import Testing

/// `merge --part` and `merge --finish`.
@Suite struct MergePartCommandTests {
  private static let root = Fixtures.path("merge/llama-sharded")

  private func words(_ scratch: ScratchDirectory, _ more: String...) -> [String] {
    ["merge", "\(Self.root)/base", "\(Self.root)/adapter", scratch("out")] + more
  }

  @Test func partsAndTheirEndSayWhatTheyDid() async throws {
    let scratch = try ScratchDirectory()
    var answer = await run(words(scratch, "--part", "1/2", "--dry-run"))
    #expect(answer.code == 0 && answer.output.contains("part 1 of 2"), "\(answer)")
    #expect(try FileSystem.names(in: scratch.path).isEmpty)
    answer = await run(words(scratch, "--part", "1/2"))
    #expect(answer.code == 0 && answer.output.hasPrefix("part 1 of 2: wrote "), "\(answer)")
    #expect(answer.output.contains("; they wait in \(scratch(".out.parts")) for --finish\n"))
    answer = await run(words(scratch, "--finish", "--dry-run"))
    #expect(answer.code == 2 && answer.error.contains("part 2/2 is not done. Do it, or wait."))
    answer = await run(words(scratch, "--part=2/2", "--json"))
    let json = try #require(JSONValue(parsing: answer.output))
    #expect(
      json["part"] == .integer(2) && json["parts"] == .integer(2) && json["staging"] == .string(scratch(".out.parts")))
    let bytes = try #require(json["part_bytes"]?.integerValue)
    #expect(bytes > 0 && bytes < (json["data_bytes"]?.integerValue ?? 0))
    answer = await run(words(scratch, "--finish", "--dry-run", "--json"))
    #expect(JSONValue(parsing: answer.output)?["parts"] == .integer(2) && !FileSystem.exists(scratch("out")))
    answer = await run(words(scratch, "--finish"))
    #expect(answer.code == 0 && answer.output.contains("\nwrote \(scratch("out")): "), "\(answer)")
    #expect(await run("verify", "\(Self.root)/base", "\(Self.root)/adapter", scratch("out")).code == 0)
  }

  @Test(arguments: [
    (["--part", "1/2", "--finish"], "--part and --finish cannot be given together. Give one: "),
    (["--part", "3/2"], "option '--part': '3/2' is not a part such as 3/8, counted from 1/8 to 8/8"),
    (["--part", "0/2"], "option '--part': '0/2' is not a part"),
    (["--part"], "option '--part' needs a value: --part K/N."),
    (["--finish"], "no part of it is there: "), (["--finish=2"], "option '--finish' takes no value"),
  ])
  func wordsThatDoNotGoTogetherAreRefused(more: [String], part: String) async throws {
    let scratch = try ScratchDirectory()
    let answer = await run(words(scratch) + more)
    #expect(answer.code == 2 && answer.output.isEmpty && answer.error.contains(part), "\(answer.error)")
    #expect(try FileSystem.names(in: scratch.path).isEmpty)
  }

  @Test func onlyAMergeHasParts() async {
    let answer = await run("unmerge", "--part", "1/2", "\(Self.root)/merged", "\(Self.root)/adapter", "out")
    #expect(answer.code == 2 && answer.error.contains("unmerge: unknown option '--part'"))
  }

  @Test func whatDiffersIsSaid() async throws {
    let scratch = try ScratchDirectory()
    #expect(await run(words(scratch, "--part", "1/2")).code == 0)
    var answer = await run(words(scratch, "--part", "2/3"))
    #expect(answer.code == 2 && answer.error.contains("the number of parts is 3 now, and was 2."), "\(answer.error)")
    answer = await run(words(scratch, "--part", "2/2", "--max-shard-size", "20KB"))
    #expect(
      answer.code == 2 && answer.error.contains("of another merge: the set of options is")
        && answer.error.contains(#""max_shard_bytes":20000"#), "\(answer.error)")
  }
}
