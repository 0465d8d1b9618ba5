internal import CLinux
internal import Glibc

/// A file's bytes in memory, read by the kernel when they are touched.
///
/// Sendable: the memory is never written to, and goes with the last reference.
public final class MappedFile: @unchecked Sendable {
  /// The file's first byte.
  public let start: UnsafeRawPointer
  public let byteCount: Int
  private let file: OpenFile
  private let watch: OpaquePointer?

  public var path: String { file.path }

  /// Maps a file. Throws `.system`.
  ///
  /// If the file is cut while it is in use, reading what it lost ends the process with SIGBUS, or gives zeros once
  /// `survivesCuts()` was called; `check()` then tells.
  public init(_ file: OpenFile) throws(TensorFileError) {
    self.file = file
    byteCount = try file.byteCount()
    guard byteCount > 0 else {
      start = UnsafeRawPointer(bitPattern: 64)!
      watch = nil
      return
    }
    guard let memory = mmap(nil, byteCount, PROT_READ, MAP_PRIVATE, file.descriptor, 0), memory != MAP_FAILED else {
      throw .system(path: file.path, operation: "map", code: errno)
    }
    start = UnsafeRawPointer(memory)
    watch = linux_watch_mapping(memory, byteCount)
    guard watch != nil else {
      munmap(memory, byteCount)
      throw .system(path: file.path, operation: "map", code: ENOMEM)
    }
  }

  deinit {
    // The watch ends first: the address may be another mapping's at once.
    if let watch { linux_forget_mapping(watch) }
    if byteCount > 0 { munmap(UnsafeMutableRawPointer(mutating: start), byteCount) }
  }

  /// Throws `.shortRead` if the file was cut since it was mapped, and what was read since may not be what it held.
  public func check() throws(TensorFileError) {
    let missing = watch.map { Int(linux_mapping_cut($0)) } ?? -1
    let now = try file.byteCount()
    guard missing >= 0 || now < byteCount else { return }
    throw .shortRead(
      path: path, byteOffset: 0, expectedBytes: byteCount, foundBytes: missing >= 0 ? min(missing, now) : now)
  }

  /// Lets the process go on when a mapped file is cut: a program's choice, since it handles SIGBUS for all of the process. A SIGBUS
  /// of another origin does what it did before. Throws `.system`.
  public static func survivesCuts() throws(TensorFileError) {
    guard linux_handle_cut_mappings() == 0 else { throw .system(path: "SIGBUS", operation: "handle", code: errno) }
  }
}
