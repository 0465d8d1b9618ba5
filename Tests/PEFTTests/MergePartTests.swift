import Glibc
import TensorFiles
import TestSupport
import Testing

@testable import PEFT

/// A merge that several programs do, each a part.
@Suite struct MergePartTests {
  private func plan(_ name: String, _ change: (inout MergeOptions) -> Void = { _ in }) throws -> MergePlan {
    var options = MergeOptions()
    change(&options)
    let root = Fixtures.path("merge/\(name)")
    return try MergePlan(base: "\(root)/base", adapter: "\(root)/adapter", options: options)
  }

  private func part(_ number: Int, _ count: Int) throws -> MergePart {
    try #require(MergePart(number: number, of: count))
  }

  private func mode(_ path: String) -> mode_t {
    var status = stat()
    return stat(path, &status) == 0 ? status.st_mode & 0o7777 : 0
  }

  /// All files of a directory, by their paths in it.
  private func files(_ directory: String) throws -> [String: [UInt8]] {
    var found: [String: [UInt8]] = [:]
    for name in try FileSystem.names(in: directory) {
      let path = FileSystem.join(directory, name)
      guard FileSystem.kind(path) == .directory else {
        found[name] = try contents(path)
        continue
      }
      for (inner, bytes) in try files(path) { found["\(name)/\(inner)"] = bytes }
    }
    return found
  }

  @Test(arguments: Fixtures.mergeCases, [1, 2, 3, 7])
  func partsComeTogetherToTheBytesOfTheWholeMerge(name: String, count: Int) async throws {
    let scratch = try ScratchDirectory()
    try await Merger(plan(name)).run(to: scratch("whole"))
    // A plan for each, as programs of their own have it; the last part first.
    for number in (1...count).reversed() {
      _ = try await Merger(plan(name), workers: 1).run(part(number, count), to: scratch("out"))
      #expect(!FileSystem.exists(scratch("out")))
    }
    try Merger(plan(name)).finish(scratch("out"))
    #expect(try files(scratch("out")) == files(scratch("whole")))
    #expect(try FileSystem.names(in: scratch.path) == ["out", "whole"])
  }

  @Test(arguments: ["llama-bf16-all-linear", "llama-sharded", "llama-dora", "llama-embedding", "t5"], [2, 5])
  func partsOfSmallShardsAreTheWholeMergeToo(name: String, count: Int) async throws {
    let scratch = try ScratchDirectory()
    let make = { try plan(name) { $0.maxShardBytes = 3_000 } }
    #expect(try make().shardNames.count > 2)
    try await Merger(make()).run(to: scratch("whole"))
    for number in 1...count { _ = try await Merger(make()).run(part(number, count), to: scratch("out")) }
    try Merger(make()).finish(scratch("out"))
    #expect(try files(scratch("out")) == files(scratch("whole")))
  }

  @Test(arguments: [
    [[5, 7, 3], [2], [9, 9, 9, 9], []], [[1]], [[]], [[], [4, 4]], [[0, 0], [0]], [[Int.max / 2, 1], [Int.max / 4]],
    [[16, 16, 16, 16, 16, 16, 16, 5], [3]],
  ])
  func everyPieceAndEveryHeaderIsOnePartsOwn(files: [[Int]]) throws {
    for count in [1, 2, 3, 4, 7, 64] {
      var owners = files.map { $0.map { _ in 0 } }
      var headers = files.map { _ in 0 }
      for number in 1...count {
        let shares = try part(number, count).shares(of: files)
        for share in shares {
          for place in share.pieces { owners[share.file][place] += 1 }
          if share.writesHeader { headers[share.file] += 1 }
        }
        // Only where files are fewer than parts is one written by several.
        if files.count >= count {
          #expect(shares.allSatisfy { $0.writesHeader && $0.pieces == files[$0.file].indices })
        }
      }
      #expect(owners.allSatisfy { $0.allSatisfy { $0 == 1 } } && headers.allSatisfy { $0 == 1 }, "\(count) \(owners)")
    }
  }

  @Test func sharesAreAboutTheSameSize() throws {
    let pieces = [[Int](repeating: 16, count: 100), [Int](repeating: 16, count: 28)]
    let sizes = try (1...8).map { number in
      try part(number, 8).shares(of: pieces).reduce(0) { $1.pieces.reduce($0) { sum, _ in sum + 16 } }
    }
    #expect(sizes == [Int](repeating: 256, count: 8))
    let files = (1...9).map { [$0 * 10] }
    let loads = try (1...3).map { number in
      try part(number, 3).shares(of: files).reduce(0) { $0 + ($1.file + 1) * 10 }
    }
    #expect(loads == [160, 150, 140])
  }

  @Test(arguments: ["0/3", "4/3", "1/0", "1", "a/3", "1/3/5", "-1/3", "+1/3", "1/", "/3", "", "1/65537", "1 /3", "١/3"])
  func whatIsNoPartIsNone(text: String) { #expect(MergePart(text) == nil) }

  @Test func aPartIsCountedFromOne() throws {
    #expect(MergePart("3/8") == (try part(3, 8)) && MergePart("1/1") != nil && MergePart("65536/65536") != nil)
  }

  @Test func aPartThatIsNotDoneIsNamed() async throws {
    let scratch = try ScratchDirectory()
    let merger = Merger(try plan("llama-sharded"))
    let staging = scratch(".out.parts")
    #expect(throws: AdapterError.parts(.none(output: scratch("out"), staging: staging))) {
      try merger.finish(scratch("out"))
    }
    for number in [1, 3, 4] { _ = try await merger.run(part(number, 5), to: scratch("out")) }
    #expect(throws: AdapterError.parts(.missing(staging: staging, parts: [2, 5], count: 5))) {
      try merger.finish(scratch("out"))
    }
    for number in [2, 5] { _ = try await merger.run(part(number, 5), to: scratch("out")) }
    try merger.finish(scratch("out"))
    #expect(FileSystem.kind(scratch("out")) == .directory && !FileSystem.exists(staging))
  }

  /// What differs between the merge of the parts that are there and that of another part, or of the end.
  private static let others: [(what: String, change: @Sendable (String) throws -> MergePlan)] = [
    (
      "what is merged",
      { root in
        try MergePlan(base: "\(root)/base", adapters: [.init("\(root)/adapter", weight: 0.5)])
      }
    ),
    (
      "the set of options",
      { root in
        var options = MergeOptions()
        options.maxShardBytes = 3_000
        return try MergePlan(base: "\(root)/base", adapter: "\(root)/adapter", options: options)
      }
    ),
    (
      "the base's fingerprint",
      { root in
        let other = Fixtures.path("merge/qwen2-bf16")
        return try MergePlan(base: "\(other)/base", adapter: "\(other)/adapter")
      }
    ),
  ]

  @Test(arguments: others.indices) func aPartOfAnotherMergeIsRefusedAndSpoilsNothing(index: Int) async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv")
    let merger = Merger(try MergePlan(base: "\(root)/base", adapter: "\(root)/adapter"))
    try await merger.run(to: scratch("whole"))
    _ = try await merger.run(part(1, 2), to: scratch("out"))
    let (what, change) = Self.others[index]
    let other = Merger(try change(root))
    func isRefused(_ error: any Error) -> Bool {
      guard case AdapterError.parts(.ofAnotherMerge(_, let found, let now, let before)) = error else { return false }
      return found == what && now != before
    }
    await #expect(performing: { _ = try await other.run(part(2, 2), to: scratch("out")) }, throws: isRefused)
    #expect(performing: { try other.finish(scratch("out")) }, throws: isRefused)
    await #expect(
      performing: { _ = try await merger.run(part(2, 3), to: scratch("out")) },
      throws: { error in
        guard case AdapterError.parts(.ofAnotherMerge(_, let found, _, _)) = error else { return false }
        return found == "the number of parts"
      })
    _ = try await merger.run(part(2, 2), to: scratch("out"))
    try merger.finish(scratch("out"))
    #expect(try files(scratch("out")) == files(scratch("whole")))
  }

  @Test func aFileThatIsNotWhatItsPartsLeftIsNamedWithThem() async throws {
    let scratch = try ScratchDirectory()
    let merger = Merger(try plan("llama-f32-qv"))
    for number in 1...3 { _ = try await merger.run(part(number, 3), to: scratch("out")) }
    let file = scratch(".out.parts/model/model.safetensors")
    let whole = try contents(file)
    for damaged in [Array(whole.dropLast(8)), [1] + whole.dropFirst()] {
      try overwrite(file, damaged)
      #expect(throws: AdapterError.parts(.damaged(file: file, parts: [1, 2, 3], count: 3))) {
        try merger.finish(scratch("out"))
      }
      #expect(!FileSystem.exists(scratch("out")))
    }
    // Their writers mend it.
    for number in 1...3 { _ = try await merger.run(part(number, 3), to: scratch("out")) }
    try merger.finish(scratch("out"))
    #expect(try contents(scratch("out/model.safetensors")) == whole)
  }

  @Test func aDocumentOfAPartThatBelongsElsewhereIsNotBelieved() async throws {
    let scratch = try ScratchDirectory()
    let merger = Merger(try plan("llama-f32-qv"))
    for number in 1...3 { _ = try await merger.run(part(number, 3), to: scratch("out")) }
    let staging = scratch(".out.parts")
    try overwrite("\(staging)/part-2.json", #"{"part":2,"of":3,"merge":"0"}"#)
    #expect(throws: AdapterError.parts(.different(staging: staging, parts: [2], count: 3))) {
      try merger.finish(scratch("out"))
    }
    for text in ["", "{", #"{"part":3}"#, "[]"] {
      try overwrite("\(staging)/part-2.json", text)
      #expect(throws: AdapterError.parts(.missing(staging: staging, parts: [2], count: 3))) {
        try merger.finish(scratch("out"))
      }
    }
    try overwrite("\(staging)/manifest.json", #"{"parts": 0}"#)
    #expect(throws: AdapterError.parts(.badManifest(path: "\(staging)/manifest.json"))) {
      try merger.finish(scratch("out"))
    }
  }

  @Test func anEndThatWasKilledIsGoneOnWith() async throws {
    let scratch = try ScratchDirectory()
    let merger = Merger(try plan("llama-f32-qv"))
    try await merger.run(to: scratch("whole"))
    for number in 1...2 { _ = try await merger.run(part(number, 2), to: scratch("out")) }
    // Before the rename: some files were written, one of them in part.
    try overwrite(scratch(".out.parts/model/config.json"), "{")
    try FileSystem.makeDirectories(scratch(".out.parts/model/left/over"))
    try merger.finish(scratch("out"))
    #expect(try files(scratch("out")) == files(scratch("whole")))
    // After it, before the parts' directory was removed.
    try FileSystem.remove(scratch("out"))
    for number in 1...2 { _ = try await merger.run(part(number, 2), to: scratch("out")) }
    try FileSystem.move(scratch(".out.parts/model"), to: scratch("out"))
    var options = MergeOptions()
    options.replaceOutput = true
    let again = Merger(try plan("llama-f32-qv") { $0 = options })
    await #expect(throws: AdapterError.parts(.leftOver(staging: scratch(".out.parts")))) {
      _ = try await again.run(part(1, 2), to: scratch("out"))
    }
    try merger.finish(scratch("out"))
    #expect(try FileSystem.names(in: scratch.path) == ["out", "whole"])
  }

  @Test func anOutputThatIsThereIsReplacedOnlyIfAllowed() async throws {
    let scratch = try ScratchDirectory()
    try FileSystem.makeDirectory(scratch("out"))
    try overwrite(scratch("out/mine"), "kept")
    let strict = Merger(try plan("llama-f32-qv"))
    await #expect(throws: AdapterError.file(.outputExists(path: scratch("out")))) {
      _ = try await strict.run(part(1, 2), to: scratch("out"))
    }
    let replacing = Merger(try plan("llama-f32-qv") { $0.replaceOutput = true })
    for number in 1...2 { _ = try await replacing.run(part(number, 2), to: scratch("out")) }
    #expect(throws: AdapterError.file(.outputExists(path: scratch("out")))) { try strict.finish(scratch("out")) }
    #expect(try FileSystem.names(in: scratch("out")) == ["mine"])
    try replacing.finish(scratch("out"))
    #expect(FileSystem.kind(scratch("out/mine")) == nil && FileSystem.kind(scratch("out/model.safetensors")) == .file)
  }

  @Test func theResultIsAsPrivateAsTheBase() async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv")
    try copyDirectory("\(root)/base", to: scratch("base"))
    for bits in [0o444, 0o600] as [mode_t] {
      #expect(chmod(scratch("base/model.safetensors"), bits) == 0)
      let merger = Merger(try MergePlan(base: scratch("base"), adapter: "\(root)/adapter"))
      try await merger.run(to: scratch("whole\(bits)"))
      for number in [1, 2, 1] { _ = try await merger.run(part(number, 2), to: scratch("out\(bits)")) }
      try merger.finish(scratch("out\(bits)"))
      #expect(mode(scratch("out\(bits)/model.safetensors")) == mode(scratch("whole\(bits)/model.safetensors")))
      #expect(mode(scratch("out\(bits)")) == mode(scratch("whole\(bits)")))
    }
  }

  @Test func aTensorThatIsNotFiniteIsToldByTheEnd() async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f16-rslora")
    func merger() throws -> Merger {
      var options = MergeOptions()
      options.allowNonFinite = true
      return Merger(
        try MergePlan(base: "\(root)/base", adapters: [.init("\(root)/adapter", weight: 1e9)], options: options))
    }
    let expected = try await merger().run(to: scratch("whole")).nonFiniteTensors
    #expect(!expected.isEmpty)
    for number in 1...3 { _ = try await merger().run(part(number, 3), to: scratch("out")) }
    #expect(try merger().finish(scratch("out")).nonFiniteTensors == expected)
  }

  @Test func partsThatBeginTogetherAgree() async throws {
    let scratch = try ScratchDirectory()
    let name = "llama-sharded"
    try await Merger(plan(name)).run(to: scratch("whole"))
    try await withThrowingTaskGroup(of: Void.self) { group in
      for number in 1...6 {
        let (merger, part) = (Merger(try plan(name), workers: 1), try part(number, 6))
        let output = scratch("out")
        group.addTask { _ = try await merger.run(part, to: output) }
      }
      try await group.waitForAll()
    }
    try Merger(plan(name)).finish(scratch("out"))
    #expect(try files(scratch("out")) == files(scratch("whole")))
  }
}
