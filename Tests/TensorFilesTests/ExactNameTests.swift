import TensorFiles
import TestSupport
import Testing

/// Names that Unicode calls equivalent and files do not: `é` in one code point, and in two.
private let (one, two) = ("\u{E9}", "e\u{301}")

@Suite struct ExactNameTests {
  @Test func namesAreEqualByTheirCodePoints() {
    #expect(ExactName(one) != ExactName(two))
    #expect(ExactName(one) == ExactName("\u{E9}"))
    #expect(ExactName("\u{212A}") != "K")
    #expect(Set<ExactName>([ExactName(one), ExactName(two), ExactName(one)]).count == 2)
    let entries = [one, two].map { TensorEntry(name: $0, dtype: .f32, shape: [0], byteRange: 0..<0) }
    #expect(entries[0] != entries[1])
  }

  @Test func namesSortAsPythonSortsThem() {
    // sorted(["é", "é", "z", "f", "\uffff", "\U00010000"]) of Python.
    let names = ["\u{10000}", "\u{FFFF}", one, "f", "z", two]
    #expect(
      names.map { ExactName($0) }.sorted().map { Array($0.text.unicodeScalars) }
        == [two, "f", "z", one, "\u{FFFF}", "\u{10000}"].map { Array($0.unicodeScalars) })
  }

  @Test func aHundredThousandEquivalentNamesAreToldApartAtOnce() {
    // Each of seventeen letters in one code point or in two: all the same to String, which would compare each with all.
    let names = (0..<1 << 17).map { bits in ExactName((0..<17).map { bits >> $0 & 1 == 0 ? one : two }.joined()) }
    #expect(Set(names).count == 1 << 17)
  }

  @Test func anIndexKeepsEquivalentShardsAndTensorsApart() throws {
    let scratch = try ScratchDirectory()
    for name in [one, two] {
      let path = scratch("\(name).safetensors")
      let layout = try SafetensorsLayout(path: path, items: [.init(name: name, dtype: .u8, shape: [1])])
      _ = try layout.create(at: path)
    }
    try overwrite(
      scratch("model.safetensors.index.json"),
      #"{"weight_map": {"\#(one)": "\#(one).safetensors", "\#(two)": "\#(two).safetensors"}}"#)
    let checkpoint = try Checkpoint(path: scratch("model.safetensors.index.json"))
    #expect(checkpoint.shards.count == 2)
    #expect(checkpoint.tensorCount == 2)
    #expect(checkpoint[one]?.shard != checkpoint[two]?.shard)
    try overwrite(
      scratch("model.safetensors.index.json"),
      #"{"weight_map": {"\#(one)": "\#(two).safetensors", "\#(two)": "\#(one).safetensors"}}"#)
    #expect(throws: TensorFileError.self) { try Checkpoint(path: scratch("model.safetensors.index.json")) }
  }
}
