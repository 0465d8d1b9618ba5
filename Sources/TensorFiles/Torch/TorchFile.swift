/// A file of tensors as `torch.save` writes it: a zip archive, or the stacked pickles of torch before 1.6.
///
/// Nothing in it is executed: see `PickleMachine`. Tensors that lie together row by row are read where they lie, as those of
/// a safetensors file are; the others are laid out anew in a temporary file without a name.
struct TorchFile {
  /// Tensors by name, in the order of the state dict.
  private(set) var tensors: [(name: String, tensor: TorchTensor)] = []
  /// Where each storage's bytes lie, by its key.
  private var storages: [ExactName: Range<Int>] = [:]
  private let file: OpenFile
  /// Bytes that the tensors may have together: views of one storage would make a small file as large as they like.
  private let copyLimit: Int

  private static func copyLimit(fileBytes: Int) -> Int { 1 << 26 + 4 * min(fileBytes, 1 << 58) }

  /// Bytes that the pickle of a state dict may have.
  private static let pickleLimit = 200_000_000
  /// What a file that torch wrote before 1.6 begins with: a pickle of this number.
  private static let legacyMagic: [UInt8] = [
    0x80, 2, 0x8A, 10, 0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19,
  ]

  /// Throws `.archive`, `.pickleMalformed`, `.pickleOpcode`, `.pickleGlobal`, `.torchTensor`, `.notTorch`.
  init(path: String) throws(TensorFileError) {
    file = try OpenFile.open(reading: path)
    let count = try file.byteCount()
    let start = try file.bytes(0..<min(count, Self.legacyMagic.count))
    copyLimit = Self.copyLimit(fileBytes: count)
    if start.starts(with: [0x50, 0x4B, 3, 4]) {
      try readArchive()
    } else if start == Self.legacyMagic {
      try readStackedPickles(count)
    } else {
      throw .notTorch(path: path)
    }
    for (name, tensor) in tensors { try check(name, tensor) }
  }

  private mutating func readArchive() throws(TensorFileError) {
    let archive = try ZipArchive(file)
    let pickles = archive.records.keys.filter { $0 == "data.pkl" || $0.text.endsExactly("/data.pkl") }
    guard pickles.count == 1, let pickle = pickles.first else {
      throw .archive(path: file.path, reason: "\(pickles.count) records named data.pkl; expected one")
    }
    let root = pickle.text.dropLast("data.pkl".count)
    guard
      !archive.records.keys.contains(where: {
        $0.text.hasPrefix("\(root)code/") || $0.text.isExactly("\(root)constants.pkl")
      })
    else {
      throw .archive(path: file.path, reason: "it is a TorchScript program, not a state dict")
    }
    for (name, range) in archive.records where name.text.hasPrefix("\(root)data/") {
      storages[String(name.text.dropFirst(root.count + 5))] = range
    }
    if archive.records["\(root)byteorder"] != nil {
      guard try archive.bytes("\(root)byteorder", limit: 100) == Array("little".utf8) else {
        throw .archive(path: file.path, reason: "its bytes are in big-endian order")
      }
    }
    let bytes = try archive.bytes(pickle.text, limit: Self.pickleLimit)
    var machine = PickleMachine(
      path: file.path, bytes: bytes, origin: archive.records[pickle]?.lowerBound ?? 0, budget: PickleBudget())
    try collect(machine.run(), machine.arena)
  }

  /// Magic number, protocol, system, state dict, the storages' keys; then each storage with its count before it.
  private mutating func readStackedPickles(_ count: Int) throws(TensorFileError) {
    // The pickles come first, but nothing says how long they are.
    let head = try file.bytes(0..<min(count, Self.pickleLimit))
    func failure(_ position: Int, _ reason: String) -> TensorFileError {
      .pickleMalformed(path: file.path, byteOffset: position, reason: reason)
    }
    guard head.count > Self.legacyMagic.count, head[Self.legacyMagic.count] == UInt8(ascii: ".") else {
      throw .notTorch(path: file.path)
    }
    var machine = PickleMachine(
      path: file.path, bytes: head, from: Self.legacyMagic.count + 1, origin: 0, budget: PickleBudget())
    guard case .integer(1001) = try machine.run() else {
      throw failure(machine.position, "an unknown protocol of torch")
    }
    guard case .dictionary(let system) = try machine.run() else {
      throw failure(machine.position, "no description of the system")
    }
    if case .bool(false)? = machine.arena.dictionaries[system].first(where: { $0.key == "little_endian" })?.value {
      throw .archive(path: file.path, reason: "its bytes are in big-endian order")
    }
    let root = try machine.run()
    guard case .list(let keys) = try machine.run() else { throw failure(machine.position, "no list of storages") }
    var position = machine.position
    let sizes = Dictionary(
      machine.arena.storages.map { ($0.key, ($0.dtype?.bitCount ?? 8) / 8) }, uniquingKeysWith: { _, last in last })
    for key in machine.arena.sequences[keys] {
      guard case .string(let key) = key, let width = sizes[key], position <= count - 8 else {
        throw failure(position, "a storage that no tensor uses, or no bytes for it")
      }
      let digits = try file.bytes(position..<position + 8)
      let elements = digits.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
      let (bytes, overflow) = elements.multipliedReportingOverflow(by: UInt64(width))
      guard !overflow, bytes <= UInt64(count - position - 8), storages[key] == nil else {
        throw failure(position, "storage '\(key)' reaches past the end, or is there twice")
      }
      storages[key] = position + 8..<position + 8 + Int(bytes)
      position += 8 + Int(bytes)
    }
    guard position == count else {
      throw .archive(path: file.path, reason: "\(count - position) bytes follow the last storage")
    }
    try collect(root, machine.arena)
  }

  /// The state dict: the top level, or what stands under `state_dict` or `model_state_dict`.
  private mutating func collect(_ root: PickleValue, _ arena: PickleArena) throws(TensorFileError) {
    guard case .dictionary(var dictionary) = root else {
      throw .pickleMalformed(path: file.path, byteOffset: 0, reason: "the top level is no dict")
    }
    for key in ["state_dict", "model_state_dict"] {
      if case .dictionary(let inner)? = arena.dictionaries[dictionary].first(where: { $0.key == key })?.value {
        dictionary = inner
      }
    }
    var positions: [ExactName: Int] = [:]
    for (key, value) in arena.dictionaries[dictionary] {
      guard case .tensor(let place) = value else { continue }
      let tensor = arena.tensors[place]
      guard key.utf8.count <= TensorEntry.partLimit || key.parts(keepingEmpty: true).count <= TensorEntry.partLimit
      else {
        throw .nameTooDeep(path: file.path, tensor: key, limit: TensorEntry.partLimit)
      }
      // As in Python, the last of equal keys counts.
      if let index = positions[key] {
        tensors[index].tensor = tensor
      } else {
        positions[key] = tensors.count
        tensors.append((key, tensor))
      }
    }
    guard tensors.count <= SafetensorsFile.tensorLimit else {
      throw .tooManyTensors(path: file.path, count: tensors.count, limit: SafetensorsFile.tensorLimit)
    }
  }

  /// Checks that a tensor lies within its storage, and the storage within the file.
  private func check(_ name: String, _ tensor: TorchTensor) throws(TensorFileError) {
    func failure(_ reason: String) -> TensorFileError { .torchTensor(path: file.path, tensor: name, reason: reason) }
    guard let range = storages[tensor.storage.key] else {
      throw failure("storage '\(tensor.storage.key)' is not in the file")
    }
    let width = tensor.dtype.bitCount / 8
    let storageWidth = (tensor.storage.dtype?.bitCount ?? 8) / 8
    guard checkedProduct(tensor.storage.count, storageWidth) == range.count else {
      throw failure("its storage says \(tensor.storage.count) elements, the file has \(range.count) bytes")
    }
    guard tensor.storage.dtype == nil || storageWidth == width else {
      throw failure("its element type differs from its storage's")
    }
    guard let count = TensorEntry.elementCount(tensor.shape), count <= 1 << 48 else {
      throw failure("its shape \(tensor.shape) is too large")
    }
    if count == 0 { return }
    var last = tensor.offset
    for (extent, stride) in zip(tensor.shape, tensor.strides) {
      guard let step = checkedProduct(extent - 1, stride),
        case (let sum, let overflows) = last.addingReportingOverflow(step), !overflows
      else { throw failure("its strides overflow") }
      last = sum
    }
    guard last < range.count / width else {
      throw failure("it reaches element \(last) of a storage of \(range.count / width)")
    }
  }

  // MARK: As other files are

  /// True if the elements lie together, row by row.
  private func isRowMajor(_ tensor: TorchTensor) -> Bool {
    var expected = 1
    for (extent, stride) in zip(tensor.shape, tensor.strides).reversed() {
      if extent != 1 && stride != expected { return false }
      expected *= extent
    }
    return true
  }

  /// The tensors as a file's entries, and those that had to be laid out anew, in a second file; names of tensors that are another's
  /// under a second name are left out and returned.
  func views() throws(TensorFileError) -> (files: [SafetensorsFile], aliases: [ExactName: String]) {
    var plain: [TensorEntry] = []
    var strided: [(name: String, tensor: TorchTensor)] = []
    var aliases: [ExactName: String] = [:]
    var seen: [TorchTensor: String] = [:]
    var budget = copyLimit
    for (name, tensor) in tensors {
      if !tensor.shape.contains(0), let first = seen[tensor] {
        aliases[name] = first
        continue
      }
      seen[tensor] = name
      try spend(tensor, name, from: &budget)
      guard isRowMajor(tensor), let range = storages[tensor.storage.key] else {
        strided.append((name, tensor))
        continue
      }
      let count = tensor.shape.reduce(1, *)
      let start = range.lowerBound + (count == 0 ? 0 : tensor.offset) * tensor.dtype.bitCount / 8
      plain.append(
        TensorEntry(
          name: name, dtype: tensor.dtype, shape: tensor.shape,
          byteRange: start..<start + count * tensor.dtype.bitCount / 8))
    }
    var files = [SafetensorsFile(unchecked: file, entries: plain)]
    if !strided.isEmpty { files.append(try laidOut(strided)) }
    return (files, aliases)
  }

  /// All tensors, each with bytes of its own.
  func copied() throws(TensorFileError) -> SafetensorsFile {
    var budget = copyLimit
    for (name, tensor) in tensors { try spend(tensor, name, from: &budget) }
    if tensors.allSatisfy({ isRowMajor($0.tensor) }) {
      let entries = tensors.compactMap { name, tensor -> TensorEntry? in
        guard let range = storages[tensor.storage.key] else { return nil }
        let count = tensor.shape.reduce(1, *) * tensor.dtype.bitCount / 8
        let start = range.lowerBound + (count == 0 ? 0 : tensor.offset) * tensor.dtype.bitCount / 8
        return TensorEntry(
          name: name, dtype: tensor.dtype, shape: tensor.shape, byteRange: start..<start + count)
      }
      return SafetensorsFile(unchecked: file, entries: entries)
    }
    return try laidOut(tensors)
  }

  /// Takes a tensor's bytes from what all may have; of one that must be laid out anew, also those that it is read from.
  private func spend(_ tensor: TorchTensor, _ name: String, from budget: inout Int) throws(TensorFileError) {
    let width = tensor.dtype.bitCount / 8
    let count = tensor.shape.reduce(1, *)
    var bytes = count * width
    if count > 0, !isRowMajor(tensor) { bytes += (touched(tensor).count) * width }
    guard bytes <= budget else {
      throw .torchTensor(
        path: file.path, tensor: name,
        reason: "with the tensors before it, it has over \(copyLimit) bytes: views of few")
    }
    budget -= bytes
  }

  /// The elements of its storage from the tensor's first to its last.
  private func touched(_ tensor: TorchTensor) -> Range<Int> {
    tensor.offset..<zip(tensor.shape, tensor.strides).reduce(tensor.offset) { $0 + ($1.0 - 1) * $1.1 } + 1
  }

  private func laidOut(_ strided: [(name: String, tensor: TorchTensor)]) throws(TensorFileError) -> SafetensorsFile {
    let target = try OpenFile.temporary(named: file.path)
    var entries: [TensorEntry] = []
    var position = 0
    for (name, tensor) in strided {
      guard let range = storages[tensor.storage.key] else { continue }
      let width = tensor.dtype.bitCount / 8
      let count = tensor.shape.reduce(1, *)
      if count == 0 {
        entries.append(
          TensorEntry(name: name, dtype: tensor.dtype, shape: tensor.shape, byteRange: position..<position))
        continue
      }
      let part = touched(tensor)
      let bytes = try file.bytes(
        range.lowerBound + part.lowerBound * width..<range.lowerBound + part.upperBound * width)
      let start = position
      var dense: [UInt8] = []
      var index = [Int](repeating: 0, count: tensor.shape.count)
      var place = 0
      for _ in 0..<count {
        dense += bytes[place * width..<(place + 1) * width]
        for axis in index.indices.reversed() {
          index[axis] += 1
          place += tensor.strides[axis]
          if index[axis] < tensor.shape[axis] { break }
          place -= index[axis] * tensor.strides[axis]
          index[axis] = 0
        }
        if dense.count >= 1 << 20 {
          try target.write(dense.span.bytes, at: position)
          position += dense.count
          dense.removeAll(keepingCapacity: true)
        }
      }
      try target.write(dense.span.bytes, at: position)
      position += dense.count
      entries.append(
        TensorEntry(name: name, dtype: tensor.dtype, shape: tensor.shape, byteRange: start..<position))
    }
    return SafetensorsFile(unchecked: target, entries: entries)
  }
}

extension SafetensorsFile {
  /// Opens a safetensors file, or a torch file, whose tensors are then seen as if they stood in one.
  ///
  /// The name says which it must be. A file that is refused is never tried as the other kind.
  /// Throws: what `SafetensorsFile.init` and `TorchFile.init` throw.
  package static func openAny(
    path: String
  ) throws(TensorFileError) -> (files: [SafetensorsFile], aliases: [ExactName: String]) {
    guard path.hasSuffix(".bin") || path.hasSuffix(".pt") || path.hasSuffix(".pth") else {
      return ([try SafetensorsFile(path: path)], [:])
    }
    return try TorchFile(path: path).views()
  }

  /// Opens a torch file as one, for small files: tensors that share bytes or do not lie together are laid out anew.
  package static func openTorch(path: String) throws(TensorFileError) -> SafetensorsFile {
    try TorchFile(path: path).copied()
  }
}
