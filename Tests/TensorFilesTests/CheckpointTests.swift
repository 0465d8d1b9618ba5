import Glibc
import TensorFiles
import TestSupport
import Testing

@Suite struct CheckpointTests {
  /// A sharded checkpoint of one's own to damage.
  private func sharded() throws -> ScratchDirectory {
    let scratch = try ScratchDirectory()
    for name in try FileSystem.names(in: Fixtures.path("merge/llama-sharded/base")) {
      try FileSystem.copy(Fixtures.path("merge/llama-sharded/base/\(name)"), to: scratch(name))
    }
    return scratch
  }

  private func failure(_ scratch: ScratchDirectory) throws -> TensorFileError {
    try #require(#expect(throws: TensorFileError.self) { try Checkpoint(path: scratch.path) })
  }

  private func edit(_ scratch: ScratchDirectory, _ change: (inout JSONValue) -> Void) throws {
    var index = try JSONValue(contentsOf: scratch(Checkpoint.indexName))
    var map = try #require(index["weight_map"])
    change(&map)
    index["weight_map"] = map
    try overwrite(scratch(Checkpoint.indexName), index.compactText)
  }

  @Test func mutatedIndexesNeverTrap() throws {
    let scratch = try sharded()
    let path = scratch(Checkpoint.indexName)
    let original = try contents(path)
    var generator = SeededGenerator(seed: 20)
    var refused = 0
    for _ in 0..<fuzzRounds {
      var bytes = original
      for _ in 0..<Int.random(in: 1...3, using: &generator) {
        bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
      }
      try overwrite(path, bytes)
      do throws(TensorFileError) {
        _ = try Checkpoint(path: scratch.path)
      } catch {
        #expect(!error.description.isEmpty)
        refused += 1
      }
    }
    #expect(refused > fuzzRounds / 2)
  }

  @Test func shardsAndIndexAgree() throws {
    let scratch = try sharded()
    let checkpoint = try Checkpoint(path: scratch.path)
    #expect(checkpoint.shards.count > 1)
    #expect(checkpoint.tensorCount == checkpoint.shards.reduce(0) { $0 + $1.entries.count })
  }

  @Test func aMissingShardIsNamed() throws {
    let scratch = try sharded()
    let shard = try #require(FileSystem.names(in: scratch.path).first { $0.hasSuffix(".safetensors") })
    try FileSystem.remove(scratch(shard))
    let error = try failure(scratch)
    #expect(caseName(error) == "shardMissing" && error.description.contains(shard))
  }

  @Test func aTensorThatTheIndexInventsIsNamed() throws {
    let scratch = try sharded()
    try edit(scratch) { $0["invented.weight"] = $0.members?.first?.value }
    #expect(caseName(try failure(scratch)) == "tensorMissingFromShard")
  }

  @Test func aTensorThatTheIndexForgetsIsNamed() throws {
    let scratch = try sharded()
    try edit(scratch) { map in
      guard let key = map.members?.first?.key else { return }
      map[key] = nil
    }
    #expect(caseName(try failure(scratch)) == "tensorNotInIndex")
  }

  @Test func aTensorInTwoShardsIsNamed() throws {
    let scratch = try sharded()
    let names = try FileSystem.names(in: scratch.path).filter { $0.hasSuffix(".safetensors") }
    try FileSystem.remove(scratch(names[1]))
    try FileSystem.copy(scratch(names[0]), to: scratch(names[1]))
    #expect(["tensorMissingFromShard", "tensorNotInIndex"].contains(caseName(try failure(scratch))))
  }

  @Test(arguments: ["../base/x.safetensors", "/etc/passwd", "..", "", "a/b.safetensors"])
  func aShardOutsideTheDirectoryIsRefused(shard: String) throws {
    let scratch = try sharded()
    try edit(scratch) { map in
      guard let key = map.members?.first?.key else { return }
      map[key] = .string(shard)
    }
    #expect(caseName(try failure(scratch)) == "indexPathEscapes")
  }

  @Test func aShardThatIsALinkOutOfTheDirectoryIsRefused() throws {
    let scratch = try sharded()
    let elsewhere = try ScratchDirectory()
    let name = try #require(FileSystem.names(in: scratch.path).first { $0.hasSuffix(".safetensors") })
    try FileSystem.copy(scratch(name), to: elsewhere("shard"))
    try FileSystem.remove(scratch(name))
    #expect(symlink(elsewhere("shard"), scratch(name)) == 0)
    #expect(caseName(try failure(scratch)) == "indexPathEscapes")
  }

  @Test func anIndexWithoutAMapIsRefused() throws {
    let scratch = try sharded()
    for text in ["{}", #"{"weight_map": []}"#, #"{"weight_map": {}}"#, #"{"weight_map": {"a": 1}}"#] {
      try overwrite(scratch(Checkpoint.indexName), text)
      #expect(caseName(try failure(scratch)) == "indexMalformed")
    }
  }

  @Test func aDirectoryWithoutTensorsSaysWhatItFound() throws {
    let scratch = try ScratchDirectory()
    try overwrite(scratch("consolidated.bin"), "x")
    let error = try failure(scratch)
    #expect(caseName(error) == "noCheckpoint" && error.description.contains("consolidated.bin"))
  }
}

@Suite struct OutputDirectoryTests {
  @Test func nothingIsVisibleBeforeTheCommit() throws {
    let scratch = try ScratchDirectory()
    let output = try OutputDirectory(target: scratch("out"), replacing: false, inputs: [])
    try OpenFile.create(output.path("file")).write("text")
    #expect(FileSystem.kind(scratch("out")) == nil)
    try output.commit(durable: true)
    #expect(try FileSystem.names(in: scratch.path) == ["out"])
    #expect(try FileSystem.text(scratch("out/file")) == "text")
  }

  @Test func aFullDirectoryIsReplacedOnlyOnDemand() throws {
    let scratch = try ScratchDirectory()
    try FileSystem.makeDirectory(scratch("out"))
    try overwrite(scratch("out/old"), "old")
    let error = #expect(throws: TensorFileError.self) {
      try OutputDirectory(target: scratch("out"), replacing: false, inputs: [])
    }
    #expect(error.map(caseName) == "outputExists")
    let output = try OutputDirectory(target: scratch("out"), replacing: true, inputs: [])
    try OpenFile.create(output.path("new")).write("new")
    #expect(try FileSystem.names(in: scratch("out")) == ["old"])
    try output.commit(durable: false)
    #expect(try FileSystem.names(in: scratch("out")) == ["new"])
    #expect(try FileSystem.names(in: scratch.path) == ["out"])
  }

  @Test func whatAKilledRunLeftIsRemovedAndWhatIsInUseIsKept() throws {
    let scratch = try ScratchDirectory()
    try FileSystem.makeDirectory(scratch(".out.partial-1-1"))
    let inUse = try OutputDirectory(target: scratch("out"), replacing: false, inputs: [])
    let second = try OutputDirectory(target: scratch("out"), replacing: false, inputs: [])
    #expect(FileSystem.kind(scratch(".out.partial-1-1")) == nil)
    #expect(FileSystem.kind(inUse.workPath) == .directory)
    second.discard()
    inUse.discard()
    #expect(try FileSystem.names(in: scratch.path).isEmpty)
  }

  @Test func anInputIsNeverOverwritten() throws {
    let scratch = try ScratchDirectory()
    try FileSystem.makeDirectory(scratch("base"))
    for target in ["base", "base/out", "base/../base"] {
      let error = #expect(throws: TensorFileError.self) {
        try OutputDirectory.check(target: scratch(target), replacing: true, inputs: [scratch("base")])
      }
      #expect(error.map(caseName) == "outputOverlapsInput", "\(target)")
    }
    try OutputDirectory.check(target: scratch("base2"), replacing: false, inputs: [scratch("base")])
    // A shard that is a link into the output counts as well.
    try FileSystem.makeDirectory(scratch("out"))
    try overwrite(scratch("out/shard"), "x")
    #expect(throws: TensorFileError.self) {
      try OutputDirectory.check(target: scratch("out"), replacing: true, inputs: [scratch("out/shard")])
    }
  }

  @Test func onlyADirectoryIsReplaced() throws {
    let scratch = try ScratchDirectory()
    try overwrite(scratch("file"), "x")
    for target in [scratch("file"), "/dev/null", "/", scratch("."), scratch("a/.."), ""] {
      let error = #expect(throws: TensorFileError.self) {
        try OutputDirectory.check(target: target, replacing: true, inputs: [])
      }
      #expect(error.map(caseName) == "outputNotDirectory", "\(target)")
    }
  }

  @Test func whatIsNoRegularFileIsNotRead() {
    for path in ["/dev/null", "/tmp", "/dev/zero"] {
      let error = #expect(throws: TensorFileError.self) { try OpenFile.open(reading: path) }
      #expect(error.map(caseName) == "notAFile")
    }
  }
}

@Suite struct JSONTests {
  @Test(arguments: [
    (0.0, "0.0"), (-0.0, "-0.0"), (16, "16.0"), (0.05, "0.05"), (1e-4, "0.0001"), (1e-5, "1e-05"), (1.5e-7, "1.5e-07"),
    (1e15, "1000000000000000.0"), (1e16, "1e+16"), (1.2345e22, "1.2345e+22"),
    (11.313708498984761, "11.313708498984761"),
    (123456789.125, "123456789.125"), (-2.5, "-2.5"), (1.7976931348623157e308, "1.7976931348623157e+308"),
    (9_999_999_999_999_998, "9999999999999998.0"), (0.1 + 0.2, "0.30000000000000004"),
  ])
  func numbersAreWrittenAsPythonWritesThem(value: Double, text: String) {
    #expect(JSONValue.number(value).compactText == text)
  }

  @Test func duplicateKeysAndForeignSyntaxAreRefused() {
    for text in [#"{"a":1,"a":2}"#, "{'a':1}", "[1,]", "NaN", "[1] 2", "\u{FEFF}{}", ""] {
      #expect(JSONValue(parsing: text) == nil, "\(text)")
    }
  }

  @Test func orderAndKindsOfNumbersSurvive() {
    let text = #"{"b":1,"a":1.0,"c":[true,null,"é\n"]}"#
    #expect(JSONValue(parsing: text)?.compactText == text)
  }

  /// The largest mixtures of experts have 150,000. What has more would take minutes and gigabytes to no end.
  @Test func moreTensorsThanModelsHaveAreRefused() throws {
    let scratch = try ScratchDirectory()
    let count = SafetensorsFile.tensorLimit + 1
    let entries = (0..<count).map { #""w\#($0)": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}"# }
    let header = Array("{\(entries.joined(separator: ","))}".utf8)
    let length = (0..<8).map { UInt8(truncatingIfNeeded: header.count >> ($0 * 8)) }
    try overwrite(scratch("model.safetensors"), length + header)
    let error = #expect(throws: TensorFileError.self) { try Checkpoint(path: scratch("model.safetensors")) }
    #expect(error.map(caseName) == "tooManyTensors")
    let map = (0..<count).map { #""w\#($0)": "a.safetensors""# }.joined(separator: ",")
    try overwrite(scratch("model.safetensors.index.json"), #"{"weight_map": {\#(map)}}"#)
    let other = #expect(throws: TensorFileError.self) { try Checkpoint(path: scratch("model.safetensors.index.json")) }
    #expect(other.map(caseName) == "tooManyTensors")
    let items = (0..<count).map { SafetensorsLayout.Item(name: "w\($0)", dtype: .f32, shape: []) }
    let written = #expect(throws: TensorFileError.self) { try SafetensorsLayout(path: "out", items: items) }
    #expect(written.map(caseName) == "tooManyTensors")
  }
}
