import TensorFiles
import TestSupport
import Testing

@Suite struct GGUFTests {
  /// A value of every kind, and tensors of several types.
  private static let metadata: [GGUFFile.Member] = [
    .init("general.architecture", .string("llama")), .init("a", .u8(255)), .init("b", .i8(-1)), .init("c", .u16(65535)),
    .init("d", .i16(-2)), .init("e", .u32(7)), .init("f", .i32(-3)), .init("g", .f32(1.5)), .init("h", .bool(true)),
    .init("i", .u64(.max)), .init("j", .i64(-4)), .init("k", .f64(0.1)),
    .init("l", .array(.u32, [.u32(3), .u32(9)])), .init("m", .array(.string, [.string("é"), .string("")])),
    .init("n", .array(.array, [.array(.i8, [.i8(1)]), .array(.i8, [])])),
  ]

  private static func layout() throws -> GGUFLayout {
    let types = try ["F32", "F16", "BF16", "Q8_0"].map { name in
      try #require(GGUFType.known.first { $0.name == name })
    }
    return GGUFLayout(
      metadata: metadata,
      items: types.enumerated().map { GGUFLayout.Item(name: "blk.\($0).weight", type: $1, shape: [$0 + 1, 3, 32]) })
  }

  private static func file(_ scratch: ScratchDirectory) throws -> [UInt8] {
    let path = scratch("whole.gguf")
    _ = try layout().create(at: path)
    return try contents(path)
  }

  @Test func whatIsLaidOutReadsBack() throws {
    let scratch = try ScratchDirectory()
    _ = try Self.file(scratch)
    let file = try GGUFFile(path: scratch("whole.gguf"))
    #expect(file.metadata == Self.metadata)
    #expect(try file.tensors == Self.layout().tensors && file.tensors.allSatisfy { $0.byteRange.lowerBound % 32 == 0 })
    #expect(file["l"]?.elements?.compactMap(\.integerValue) == [3, 9] && file["i"]?.integerValue == nil)
  }

  @Test func aFileOfThePythonPackageReadsAsItWasWritten() throws {
    let file = try GGUFFile(path: Fixtures.path("dialects/gguf-alora/foreign.gguf"))
    #expect(file["general.architecture"]?.stringValue == "llama" && file["adapter.lora.alpha"]?.numberValue == 8)
    #expect(file["adapter.alora.invocation_tokens"] == .array(.u32, [.u32(3), .u32(9)]))
    #expect(
      file.tensors.count == 8
        && file.tensors.contains { $0.name == "blk.0.attn_q.weight.lora_a" && $0.shape == [4, 16] })
  }

  /// A header by hand: one key and one tensor, of which each part may be another.
  private static func bytes(
    magic: String = "GGUF", version: UInt32 = 3, tensors: UInt64 = 1, keys: UInt64 = 1, key: String = "k",
    kind: UInt32 = 4, value: [UInt8] = [1, 0, 0, 0], second: Bool = false, name: UInt64 = 1, dimensions: UInt32 = 1,
    extents: [UInt64] = [4], type: UInt32 = 0, offset: UInt64 = 0, data: Int = 32
  ) -> [UInt8] {
    var bytes = Array(magic.utf8)
    func put(_ value: some FixedWidthInteger) {
      for index in 0..<value.bitWidth / 8 { bytes.append(UInt8(truncatingIfNeeded: value >> (index * 8))) }
    }
    put(version)
    put(tensors)
    put(keys)
    put(UInt64(key.utf8.count))
    bytes += key.utf8
    put(kind)
    bytes += value
    for _ in 0..<(second ? 2 : 1) {
      put(name)
      bytes.append(UInt8(ascii: "t"))
      put(dimensions)
      for extent in extents { put(extent) }
      put(type)
      put(offset)
    }
    bytes += [UInt8](repeating: 0, count: (32 - bytes.count % 32) % 32 + data)
    return bytes
  }

  @Test func everyKindOfDamageIsRefused() throws {
    let scratch = try ScratchDirectory()
    func refused(_ bytes: [UInt8], _ phrase: String) throws {
      try overwrite(scratch("bad.gguf"), bytes)
      let error = #expect(throws: TensorFileError.self, "\(phrase)") { try GGUFFile(path: scratch("bad.gguf")) }
      #expect(error?.description.contains(phrase) == true, "\(error?.description ?? "") for \(phrase)")
    }
    try overwrite(scratch("good.gguf"), Self.bytes())
    #expect(try GGUFFile(path: scratch("good.gguf")).tensors.count == 1)
    try refused([], "ends within")
    try refused(Self.bytes(magic: "GGUX"), "begin with 'GGUF'")
    try refused(Self.bytes(version: 1), "version 1")
    try refused(Self.bytes(version: 3 << 24), "big-endian")
    try refused(Self.bytes(tensors: .max), "more than the file has room for")
    try refused(Self.bytes(keys: 1 << 60), "more than the file has room for")
    try refused(Self.bytes(kind: 13), "value type 13")
    try refused(Self.bytes(kind: 7, value: [2]), "truth value")
    // An array of arrays of …, and one of more elements than bytes.
    let nested = (0..<9).flatMap { _ in [9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0] as [UInt8] }
    try refused(Self.bytes(kind: 9, value: nested), "four levels")
    try refused(Self.bytes(kind: 9, value: [4, 0, 0, 0] + [UInt8](repeating: 0xFF, count: 8)), "length of an array")
    try refused(Self.bytes(key: "general.alignment", value: [3, 0, 0, 0]), "power of two")
    try refused(Self.bytes(key: "general.alignment", value: [0, 0, 0, 0]), "power of two")
    try refused(Self.bytes(name: .max), "length of a tensor's name")
    try refused(Self.bytes(dimensions: 5, extents: [1, 1, 1, 1, 1]), "5 dimensions")
    try refused(Self.bytes(extents: [.max]), "extent")
    try refused(Self.bytes(dimensions: 3, extents: [1 << 40, 1 << 40, 4]), "counted")
    try refused(Self.bytes(dimensions: 2, extents: [0, 1 << 40]), "counted")
    try refused(Self.bytes(type: 4), "type 4")
    try refused(Self.bytes(type: 8), "whole blocks")
    try refused(Self.bytes(offset: 8), "no multiple")
    try refused(Self.bytes(offset: 1 << 62), "the file has")
    try refused(Self.bytes(extents: [1 << 20]), "the file has")
    try refused(Self.bytes(tensors: 2, second: true), "stands twice")
    try refused(Self.bytes(data: 0), "the file has")
  }

  @Test func mutatedFilesAreReadOrRefusedButNeverTrap() throws {
    let scratch = try ScratchDirectory()
    let whole = try Self.file(scratch)
    let header = try Self.layout().header.count
    var generator = SeededGenerator(seed: 31)
    var refused = 0
    for _ in 0..<fuzzRounds {
      var bytes = whole
      for _ in 0..<Int.random(in: 1...4, using: &generator) {
        let index = Int.random(in: 0..<min(header, bytes.count), using: &generator)
        switch Int.random(in: 0..<5, using: &generator) {
        case 0: bytes[index] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
        case 1: bytes[index] = UInt8.random(in: 0...255, using: &generator)
        case 2: bytes[index] = 0xFF
        case 3: bytes.remove(at: index)
        default: bytes.removeLast(Int.random(in: 0..<bytes.count, using: &generator) / 8)
        }
      }
      try overwrite(scratch("mutated.gguf"), bytes)
      do throws(TensorFileError) {
        let file = try GGUFFile(path: scratch("mutated.gguf"))
        #expect(file.tensors.allSatisfy { $0.byteRange.upperBound <= max(bytes.count, $0.byteRange.lowerBound) })
      } catch {
        #expect(!error.description.isEmpty)
        refused += 1
      }
    }
    #expect(refused > fuzzRounds / 10)
  }
}
