import TensorFiles
import TestSupport
import Testing

/// The files of a directory of safetensors fixtures and what each must give.
private func expectations(_ kind: String) throws -> [JSONValue.Member] {
  try #require(JSONValue(contentsOf: Fixtures.path("safetensors/\(kind)/expected.json")).members)
}

@Suite struct SafetensorsTests {
  @Test func everyKindOfDamageGivesItsOwnError() throws {
    let files = try expectations("refused")
    for file in files {
      let path = Fixtures.path("safetensors/refused/\(file.key)")
      let error = #expect(throws: TensorFileError.self, "\(file.key)") { try SafetensorsFile(path: path) }
      let found = try #require(error)
      #expect(caseName(found) == file.value["expected"]?.stringValue, "\(file.key)")
      #expect(found.description.hasPrefix(path), "\(file.key)")
    }
    #expect(files.count >= 45)
  }

  @Test func whatTheFormatAllowsIsAccepted() throws {
    for file in try expectations("accepted") {
      let opened = try SafetensorsFile(path: Fixtures.path("safetensors/accepted/\(file.key)"))
      #expect(opened.entries.count == file.value["expected"]?.integerValue, "\(file.key)")
    }
  }

  @Test func everyDTypeOfTheFormatIsKnown() throws {
    let file = try SafetensorsFile(path: Fixtures.path("safetensors/accepted/every-dtype.safetensors"))
    #expect(Set(file.entries.map(\.dtype)) == Set(DType.allCases))
    for entry in file.entries { #expect(entry.name == entry.dtype.rawValue && entry.shape == [4]) }
  }

  @Test func aFileOfTheLibraryReadsAsWritten() throws {
    let file = try SafetensorsFile(path: Fixtures.path("safetensors/written-by-library.safetensors"))
    #expect(file.metadata == [JSONValue.Member("format", .string("pt"))])
    let entry = try #require(file["w"])
    #expect(entry.shape == [2, 3])
    #expect(try doubles(file.file, entry) == [0, 1, 2, 3, 4, 5])
    let items = file.entries.map { SafetensorsLayout.Item(name: $0.name, dtype: $0.dtype, shape: $0.shape) }
    #expect(SafetensorsLayout.libraryOrder(items.reversed()) == items)
  }

  @Test func unknownKeysInAnEntryAreReported() throws {
    let file = try SafetensorsFile(path: Fixtures.path("safetensors/accepted/extra-key-in-entry.safetensors"))
    #expect(file.unknownEntryKeys == ["a.note"])
  }

  @Test func whatIsLaidOutReadsBackAligned() throws {
    let scratch = try ScratchDirectory()
    for count in 1...20 {
      let items = (0..<count).map {
        SafetensorsLayout.Item(name: String(repeating: "n", count: $0 + 1), dtype: .bf16, shape: [$0, 3])
      }
      let path = scratch("file-\(count)")
      let layout = try SafetensorsLayout(path: path, items: items, metadata: [JSONValue.Member("k", .string("v"))])
      _ = try layout.create(at: path)
      let file = try SafetensorsFile(path: path)
      #expect(file.dataOffset % 64 == 0)
      #expect(file.entries.map(\.name).sorted() == items.map(\.name).sorted())
      #expect(file.metadata.map(\.key) == ["k", "format"])
    }
  }

  @Test func aHeaderOverTheLimitIsNotWritten() {
    let name = String(repeating: "n", count: 34_000_000)
    let items = (0..<3).map { SafetensorsLayout.Item(name: "\($0)\(name)", dtype: .u8, shape: [0]) }
    let error = #expect(throws: TensorFileError.self) { try SafetensorsLayout(path: "out", items: items) }
    #expect(error.map(caseName) == "headerTooLargeToWrite")
  }

  @Test func mutatedHeadersNeverTrap() throws {
    let scratch = try ScratchDirectory()
    let sources = try FileSystem.names(in: Fixtures.path("safetensors/accepted")).filter {
      $0.hasSuffix(".safetensors")
    }
    .map { try contents(Fixtures.path("safetensors/accepted/\($0)")) }
    var generator = SeededGenerator(seed: 20)
    let rounds = fuzzRounds
    var refused = 0
    for _ in 0..<rounds {
      var bytes = try #require(sources.randomElement(using: &generator))
      for _ in 0..<Int.random(in: 1...4, using: &generator) where !bytes.isEmpty {
        let index = Int.random(in: 0..<bytes.count, using: &generator)
        switch Int.random(in: 0..<4, using: &generator) {
        case 0: bytes[index] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
        case 1: bytes[index] = UInt8.random(in: 0...255, using: &generator)
        case 2: bytes.remove(at: index)
        default: bytes.insert(UInt8(ascii: "9"), at: index)
        }
      }
      try overwrite(scratch("mutated"), bytes)
      do throws(TensorFileError) {
        let file = try SafetensorsFile(path: scratch("mutated"))
        #expect(file.entries.allSatisfy { $0.byteRange.upperBound <= bytes.count })
      } catch {
        #expect(!error.description.isEmpty)
        refused += 1
      }
    }
    #expect(refused > rounds / 2)
  }
}
