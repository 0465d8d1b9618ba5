import PEFT
import TensorFiles
import TestSupport
import Testing

/// An adapter is a value: where its tensors lie makes no difference.
@Suite struct AdapterValueTests {
  /// Directories of adapters of every method and container that the fixtures have.
  static var fixtures: [String] {
    get throws {
      var found: [String] = []
      var open = ["methods", "merge", "running", "variants", "several", "torch"].map(Fixtures.path)
      while let directory = open.popLast() {
        guard let names = try? FileSystem.names(in: directory) else { continue }
        if names.contains(PeftConfig.fileName) { found.append(directory) }
        open += names.map { FileSystem.join(directory, $0) }.filter { FileSystem.kind($0) == .directory }
      }
      return found.sorted()
    }
  }

  @Test func everyAdapterIsSavedToTheSameBytesFromMemoryAsFromItsFile() throws {
    let scratch = try ScratchDirectory()
    var count = 0
    for directory in try Self.fixtures {
      guard let stored = try? StoredAdapter(directory: directory) else { continue }
      let (fromFile, fromMemory) = (scratch("file-\(count)"), scratch("memory-\(count)"))
      try stored.save(to: fromFile)
      let owned = try stored.copied()
      #expect(owned.directory == nil && owned.weights.entries.count == stored.weights.entries.count)
      try owned.save(to: fromMemory)
      for name in [Adapter.weightsName, PeftConfig.fileName] {
        let (a, b) = (FileSystem.join(fromFile, name), FileSystem.join(fromMemory, name))
        #expect(
          try SHA256.digest(of: OpenFile.open(reading: a)) == SHA256.digest(of: OpenFile.open(reading: b)),
          "\(directory)")
      }
      count += 1
    }
    #expect(count > 60)
  }

  @Test func anAdapterInMemoryMergesToTheBytesOfTheOneOnDisk() async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-bf16-all-linear")
    let onDisk = try MergePlan(base: "\(root)/base", adapter: "\(root)/adapter")
    try await Merger(onDisk).run(to: scratch("disk"))
    let owned = try StoredAdapter(directory: "\(root)/adapter").copied()
    let inMemory = try MergePlan(base: "\(root)/base", adapters: [MergePlan.Input(owned)])
    try await Merger(inMemory).run(to: scratch("memory"))
    let (disk, memory) = (scratch("disk/model.safetensors"), scratch("memory/model.safetensors"))
    let (a, b) = (try SafetensorsFile(path: disk), try SafetensorsFile(path: memory))
    #expect(a.entries == b.entries && !a.entries.isEmpty)
    for entry in a.entries {
      #expect(try a.file.holdsSameBytes(entry.byteRange, entry.byteRange, of: b.file), "\(entry.name)")
    }
  }

  @Test func valuesAreRoundedToTheDtypeOfTheirTensorAndStandWhereTheyWereWritten() throws {
    var config = PeftConfig()
    config.targetModules = .names(["q"])
    let name = "base_model.model.q.lora_A.weight"
    let made = try StoredAdapter(config, [.init(name: name, dtype: .bf16, shape: [2, 2])], named: "made") {
      sink throws(AdapterError) in
      try sink.write([3, 4], to: name, from: 2)
      try sink.write([1, 1.001], to: name)
    }
    let entry = try #require(made.weights[name])
    #expect(try made.weights.file.bytes(entry.byteRange) == [0x80, 0x3F, 0x80, 0x3F, 0x40, 0x40, 0x80, 0x40])
  }

  @Test func twoTensorsOfOneNameAreRefusedBeforeAnythingIsWritten() throws {
    let scratch = try ScratchDirectory()
    let item = AdapterSink.Item(name: "base_model.model.q.lora_A.weight", dtype: .f32, shape: [1, 1])
    #expect(throws: AdapterError.self) {
      try StoredAdapter.write(PeftConfig(), [item, item], to: scratch("out")) { _ in }
    }
    #expect(FileSystem.kind(scratch("out")) == nil)
  }
}
