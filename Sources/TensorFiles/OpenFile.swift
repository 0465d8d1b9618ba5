internal import CLinux
internal import Glibc

/// The system's text for an errno.
func systemMessage(_ code: Int32) -> String { String(cString: strerror(code)) }

/// An open file. Reads and writes name their position, so one file can serve several tasks.
///
/// Sendable: the descriptor never changes and is closed when the last reference goes.
public final class OpenFile: Sendable {
  /// As given when opened; for messages.
  public let path: String
  let descriptor: Int32

  init(path: String, descriptor: Int32) {
    self.path = path
    self.descriptor = descriptor
  }

  deinit { Glibc.close(descriptor) }

  /// Opens an existing regular file, without waiting for anything. What is none is not opened: that alone can rewind a tape
  /// or wake a program that waits at a pipe. Throws `.system`, `.notAFile`.
  public static func open(reading path: String) throws(TensorFileError) -> OpenFile {
    if let kind = FileSystem.kind(path), kind != .file { throw .notAFile(path: path) }
    let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw .system(path: path, operation: "open", code: errno) }
    let file = OpenFile(path: path, descriptor: descriptor)
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw .system(path: path, operation: "examine", code: errno) }
    guard status.st_mode & S_IFMT == S_IFREG else { throw .notAFile(path: path) }
    return file
  }

  /// Creates a file that must not exist yet.
  ///
  /// - Parameter permissions: who may do what with it, as far as the umask lets them.
  /// Throws `.system`.
  public static func create(_ path: String, permissions: FilePermissions = .open) throws(TensorFileError) -> OpenFile {
    let descriptor = Glibc.open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, permissions.mode)
    guard descriptor >= 0 else { throw .system(path: path, operation: "create", code: errno) }
    return OpenFile(path: path, descriptor: descriptor)
  }

  /// Creates a file in memory, gone with the last reference. Throws `.system`.
  /// - Parameter name: what errors call it.
  public static func inMemory(named name: String) throws(TensorFileError) -> OpenFile {
    let descriptor = linux_memory_file("tensors")
    guard descriptor >= 0 else { throw .system(path: name, operation: "reserve memory for", code: errno) }
    return OpenFile(path: name, descriptor: descriptor)
  }

  /// Creates a file without a name in TMPDIR or /tmp, gone with the last reference. Throws `.system`.
  package static func temporary(named path: String) throws(TensorFileError) -> OpenFile {
    let directory = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
    let descriptor = Glibc.open(directory, linux_temporary_flags(), 0o600)
    guard descriptor >= 0 else { throw .system(path: directory, operation: "create a temporary file in", code: errno) }
    return OpenFile(path: path, descriptor: descriptor)
  }

  /// Bytes in the file now.
  public func byteCount() throws(TensorFileError) -> Int {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw .system(path: path, operation: "examine", code: errno) }
    return Int(status.st_size)
  }

  /// Fills `destination` from `byteOffset`. Throws `.system`, or `.shortRead` when the file ends first.
  public func read(into destination: inout MutableRawSpan, at byteOffset: Int) throws(TensorFileError) {
    // Soundness: the span's memory is there until the closure ends.
    let end = destination.withUnsafeMutableBytes { read(into: $0, at: byteOffset) }
    try check(end, of: destination.byteCount, at: byteOffset)
  }

  /// Fills a part of `buffer`, from `place` on, with the bytes of `range`. Traps past the buffer's end. Throws as `read(into:at:)`.
  package func read(_ range: Range<Int>, into buffer: inout [UInt8], at place: Int) throws(TensorFileError) {
    precondition(place >= 0 && place + range.count <= buffer.count, "bytes past the buffer's end")
    // Soundness: the array's memory is there until the closure ends, and the range was checked.
    let end = buffer.withUnsafeMutableBytes { bytes in
      read(into: UnsafeMutableRawBufferPointer(rebasing: bytes[place..<place + range.count]), at: range.lowerBound)
    }
    try check(end, of: range.count, at: range.lowerBound)
  }

  private func read(into destination: UnsafeMutableRawBufferPointer, at byteOffset: Int) -> (done: Int, code: Int32) {
    var done = 0
    guard let base = destination.baseAddress else { return (0, 0) }
    while done < destination.count {
      let count = pread(descriptor, base + done, destination.count - done, off_t(byteOffset + done))
      if count < 0 && errno == EINTR { continue }
      if count < 0 { return (done, errno) }
      if count == 0 { break }
      done += count
    }
    return (done, 0)
  }

  private func check(_ end: (done: Int, code: Int32), of wanted: Int, at byteOffset: Int) throws(TensorFileError) {
    guard end.code == 0 else { throw .system(path: path, operation: "read", code: end.code) }
    guard end.done == wanted else {
      throw .shortRead(path: path, byteOffset: byteOffset, expectedBytes: wanted, foundBytes: end.done)
    }
  }

  /// The bytes of `range`. For small pieces: the array is as large as the range. Throws as `read(into:at:)`.
  public func bytes(_ range: Range<Int>) throws(TensorFileError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: range.count)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    try read(into: &raw, at: range.lowerBound)
    return bytes
  }

  /// Makes `buffer` the bytes of `range`, without new memory where it has held as many before. Throws as `read(into:at:)`.
  public func read(_ range: Range<Int>, into buffer: inout [UInt8]) throws(TensorFileError) {
    if buffer.count > range.count {
      buffer.removeLast(buffer.count - range.count)
    } else {
      buffer.append(contentsOf: repeatElement(0, count: range.count - buffer.count))
    }
    var span = buffer.mutableSpan
    var raw = span.mutableBytes
    try read(into: &raw, at: range.lowerBound)
  }

  /// True if two ranges, the second of this file or of `other`, hold the same bytes. Reads 1 MiB at a time. Throws as
  /// `read(into:at:)`.
  public func holdsSameBytes(
    _ first: Range<Int>, _ second: Range<Int>, of other: OpenFile? = nil
  ) throws(TensorFileError) -> Bool {
    guard first.count == second.count else { return false }
    if other === self && first == second { return true }
    var (a, b): ([UInt8], [UInt8]) = ([], [])
    for start in stride(from: 0, to: first.count, by: 1 << 20) {
      let end = min(start + 1 << 20, first.count)
      try read(first.lowerBound + start..<first.lowerBound + end, into: &a)
      try (other ?? self).read(second.lowerBound + start..<second.lowerBound + end, into: &b)
      // Soundness: both hold `end - start` bytes.
      let isSame = a.withUnsafeBytes { a in
        b.withUnsafeBytes { b in a.isEmpty || memcmp(a.baseAddress!, b.baseAddress!, a.count) == 0 }
      }
      if !isSame { return false }
    }
    return true
  }

  /// Writes all of `source` at `byteOffset`. Throws `.system`.
  public func write(_ source: RawSpan, at byteOffset: Int) throws(TensorFileError) {
    let wanted = source.byteCount
    var failure: Int32 = 0
    // Soundness: pwrite reads at most `wanted - done` bytes from `done` on.
    source.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      var done = 0
      while done < wanted {
        let count = pwrite(descriptor, base + done, wanted - done, off_t(byteOffset + done))
        if count < 0 && errno == EINTR { continue }
        guard count > 0 else {
          failure = count < 0 ? errno : EIO
          return
        }
        done += count
      }
    }
    if failure != 0 { throw .system(path: path, operation: "write", code: failure) }
  }

  /// Writes text at the beginning.
  public func write(_ text: String) throws(TensorFileError) {
    let bytes = Array(text.utf8)
    try write(bytes.span.bytes, at: 0)
  }

  /// Sets the length of an empty file and reserves the room for it, where the file system can. Throws `.system`, with
  /// ENOSPC when the room is not there.
  public func allocate(_ byteCount: Int) throws(TensorFileError) {
    guard byteCount > 0, linux_allocate(descriptor, Int64(byteCount)) != 0 else { return }
    guard errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL else {
      throw .system(path: path, operation: "reserve \(byteCount) bytes for", code: errno)
    }
    guard ftruncate(descriptor, off_t(byteCount)) == 0 else {
      throw .system(path: path, operation: "resize", code: errno)
    }
  }

  /// Waits until the bytes are on the disk. Throws `.system`.
  public func synchronize() throws(TensorFileError) {
    guard fsync(descriptor) == 0 else { throw .system(path: path, operation: "synchronize", code: errno) }
  }

  /// Copies bytes inside the kernel (`copy_file_range`, which shares blocks where the file system can), or through a
  /// 1 MiB buffer where the kernel cannot. Throws `.system`, `.shortRead`.
  public func copy(_ range: Range<Int>, from source: OpenFile, to byteOffset: Int) throws(TensorFileError) {
    var done = 0
    while done < range.count {
      let from = range.lowerBound + done
      let count = linux_copy_range(
        source.descriptor, Int64(from), descriptor, Int64(byteOffset + done), range.count - done)
      if count > 0 {
        done += Int(count)
        continue
      }
      if count == 0 {
        throw .shortRead(
          path: source.path, byteOffset: range.lowerBound, expectedBytes: range.count, foundBytes: done)
      }
      switch errno {
      case EINTR: continue
      case EXDEV, ENOSYS, EINVAL, EOPNOTSUPP, EPERM:
        try copyThroughBuffer(from..<range.upperBound, from: source, to: byteOffset + done)
        return
      default: throw .system(path: path, operation: "copy to", code: errno)
      }
    }
  }

  private func copyThroughBuffer(
    _ range: Range<Int>, from source: OpenFile, to byteOffset: Int
  ) throws(TensorFileError) {
    var position = range.lowerBound
    while position < range.upperBound {
      let end = min(position + 1 << 20, range.upperBound)
      let bytes = try source.bytes(position..<end)
      try write(bytes.span.bytes, at: byteOffset + position - range.lowerBound)
      position = end
    }
  }
}
