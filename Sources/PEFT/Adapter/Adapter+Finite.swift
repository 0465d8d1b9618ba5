internal import TensorFiles
internal import TensorMath

extension Adapter {
  /// Looks at all values that a merge uses.
  ///
  /// Cost: one pass over the adapter's file. Throws `.adapterNotFinite` for the first tensor with an infinity or a NaN, `.file`.
  func checkFinite() throws(AdapterError) {
    for (entry, module) in usedTensors {
      guard let format = entry.dtype.format else { continue }
      let scan = try asAdapterError { () throws(TensorFileError) in
        var scan = ValueScan()
        var bytes: [UInt8] = []
        let range = entry.byteRange
        for start in stride(from: range.lowerBound, to: range.upperBound, by: 1 << 18) {
          try file.file.read(start..<min(start + 1 << 18, range.upperBound), into: &bytes)
          let read = min(1 << 18, range.upperBound - start)
          let span = bytes.span.bytes.extracting(0..<read)
          if !allFinite(span, format) { scan.add(span, format) }
        }
        return scan
      }
      guard scan.nonFiniteCount == 0 else {
        throw .adapterNotFinite(
          path: file.path, tensor: entry.name, module: module, count: scan.nonFiniteCount, of: entry.elementCount)
      }
    }
  }

  /// Tensors of the file that have a part in the merge, and the module that each belongs to.
  private var usedTensors: [(entry: TensorEntry, module: String)] {
    var used: [(TensorEntry, String)] = []
    for module in modules {
      let entries = [module.a, module.b, module.magnitude, module.bias, module.diagonal].compactMap { $0 }
      used += entries.map { ($0, module.path) }
    }
    for part in methodParts { used += part.tensors.sorted { $0.key < $1.key }.map { ($0.value, part.path) } }
    used += sharedTensors.sorted { $0.key < $1.key }.map { ($0.value, "base_model") }
    used += replacements.map { ($0.entry, $0.name.parts().dropLast().joined(separator: ".")) }
    used += tokenRows.map { ($0.entry, $0.path) }
    used += baseCopies.sorted { $0.key < $1.key }.map { ($0.value, $0.key.text) }
    return used
  }
}
