internal import TensorFiles

/// Copies a safetensors file under other names of its tensors.
public func renameTensors(_ source: String, to target: String, _ rename: (String) -> String) throws {
  let old = try SafetensorsFile(path: source)
  let items = old.entries.map { SafetensorsLayout.Item(name: rename($0.name), dtype: $0.dtype, shape: $0.shape) }
  let layout = try SafetensorsLayout(path: target, items: items)
  let file = try layout.create(at: target)
  for (entry, placed) in zip(old.entries, layout.entries) {
    try file.copy(entry.byteRange, from: old.file, to: placed.byteRange.lowerBound)
  }
}

/// Copies a model of one file with all tensors as f64.
public func widen(_ source: String, to target: String) throws {
  let old = try Checkpoint(path: source)
  try FileSystem.makeDirectory(target)
  for name in try FileSystem.names(in: source) where name.hasSuffix(".json") && !name.hasSuffix(".index.json") {
    try FileSystem.copy(FileSystem.join(source, name), to: FileSystem.join(target, name))
  }
  let names = old.names
  let items = names.map { SafetensorsLayout.Item(name: $0, dtype: .f64, shape: old[$0]?.entry.shape ?? []) }
  let path = FileSystem.join(target, Checkpoint.singleName)
  let layout = try SafetensorsLayout(path: path, items: items)
  let file = try layout.create(at: path)
  for (name, placed) in zip(names, layout.entries) {
    let values = try doubles(old, name)
    try file.write(values.span.bytes, at: placed.byteRange.lowerBound)
  }
}
