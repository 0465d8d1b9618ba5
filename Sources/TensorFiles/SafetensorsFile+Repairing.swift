extension SafetensorsFile {
  /// Writes the file with metadata whose `format` is "pt", which transformers and others ask for; every tensor keeps its place and
  /// its bits.
  ///
  /// - Parameter replacing: whether a file that is already at `output` goes.
  /// Throws `.outputExists`, `.headerTooLargeToWrite`, `.system`, `.shortRead`.
  public func writeWithMetadata(to output: String, replacing: Bool) throws(TensorFileError) {
    if FileSystem.exists(output), !replacing { throw .outputExists(path: output) }
    let kept = metadata.filter { $0.key != "format" } + [JSONValue.Member("format", .string("pt"))]
    let items = entries.map { SafetensorsLayout.Item(name: $0.name, dtype: $0.dtype, shape: $0.shape) }
    let layout = try SafetensorsLayout(path: output, items: items, metadata: kept, alignment: .library)
    let work = "\(output).partial-\(UInt32.random(in: 0...UInt32.max))"
    do throws(TensorFileError) {
      let target = try layout.create(at: work)
      for (entry, place) in zip(entries, layout.entries) {
        try target.copy(entry.byteRange, from: file, to: place.byteRange.lowerBound)
      }
      try FileSystem.move(work, to: output, replacing: replacing)
    } catch {
      try? FileSystem.remove(work)
      throw error
    }
  }
}
