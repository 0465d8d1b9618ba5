import TensorFiles
import TestSupport
import Testing

@Suite struct TorchFileTests {
  static let read = (try? FileSystem.names(in: Fixtures.path("torch/read")))?.filter { $0.hasSuffix(".bin") } ?? []

  /// Bytes of every tensor by name, with its type and shape.
  private func tensors(_ checkpoint: Checkpoint) throws -> [ExactName: String] {
    var result: [ExactName: String] = [:]
    for name in checkpoint.names {
      let location = try #require(checkpoint[name])
      let bytes = try checkpoint.shards[location.shard].file.bytes(location.entry.byteRange)
      result[name] = "\(location.entry.dtype) \(location.entry.shape) \(bytes)"
    }
    for (second, first) in checkpoint.aliases { result[second] = result[first] }
    return result
  }

  @Test(arguments: read)
  func aFileHoldsWhatTorchSaved(name: String) throws {
    let stem = name.replacing("-legacy", with: "").replacing(".bin", with: "")
    let found = try tensors(Checkpoint(path: Fixtures.path("torch/read/\(name)")))
    let wanted = try tensors(Checkpoint(path: Fixtures.path("torch/read/\(stem).safetensors")))
    #expect(found == wanted)
    #expect(!found.isEmpty)
  }

  static let refused =
    (try? JSONValue(contentsOf: Fixtures.path("torch/refused/expected.json")))?.members?.map(\.key) ?? []

  @Test(arguments: refused)
  func aHostileFileIsRefusedWithItsOwnError(name: String) throws {
    let expected = try JSONValue(contentsOf: Fixtures.path("torch/refused/expected.json"))
    let error = #expect(throws: TensorFileError.self) {
      try Checkpoint(path: Fixtures.path("torch/refused/\(name).bin"))
    }
    #expect(error.map(caseName) == expected[name]?.stringValue, "\(String(describing: error))")
  }

  static let bombs =
    (try? JSONValue(contentsOf: Fixtures.path("torch/bombs/expected.json")))?.members?.map(\.key) ?? []

  @Test(arguments: bombs)
  func aSmallFileTakesNoMoreStackMemoryAndDiskThanItsBudget(name: String) throws {
    let expected = try JSONValue(contentsOf: Fixtures.path("torch/bombs/expected.json"))[name]?.stringValue
    do {
      let checkpoint = try Checkpoint(path: Fixtures.path("torch/bombs/\(name).bin"))
      #expect(expected == nil)
      for entry in checkpoint.shards.flatMap(\.entries) { #expect(entry.byteRange.count <= 1 << 26) }
      _ = try SafetensorsFile.openTorch(path: Fixtures.path("torch/bombs/\(name).bin"))
    } catch {
      #expect(caseName(error) == expected, "\(error)")
    }
  }

  @Test func mutatedFilesNeverTrap() throws {
    let scratch = try ScratchDirectory()
    var generator = SeededGenerator(seed: 41)
    let sources = try (Self.read.map { "read/\($0)" } + Self.bombs.map { "bombs/\($0).bin" })
      .map { try contents(Fixtures.path("torch/\($0)")) }.filter { $0.count < 10_000 }
    var accepted = 0
    for round in 0..<fuzzRounds {
      var bytes = sources[round % sources.count]
      for _ in 0..<Int.random(in: 1...4, using: &generator) {
        // Most of the interest lies in the pickle, which comes first.
        let limit = Bool.random(using: &generator) ? min(bytes.count, 700) : bytes.count
        let place = Int.random(in: 0..<limit, using: &generator)
        switch Int.random(in: 0..<4, using: &generator) {
        case 0: bytes[place] = UInt8.random(in: 0...255, using: &generator)
        case 1: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
        case 2: bytes.remove(at: place)
        default: bytes.insert(UInt8.random(in: 0...255, using: &generator), at: place)
        }
      }
      let path = scratch("mutated.bin")
      try overwrite(path, bytes)
      guard let checkpoint = try? Checkpoint(path: path) else { continue }
      accepted += 1
      // What is accepted can be read to its last byte.
      for name in checkpoint.names {
        let location = try #require(checkpoint[name])
        _ = try checkpoint.shards[location.shard].file.bytes(location.entry.byteRange)
      }
    }
    #expect(accepted > 0)
  }
}
