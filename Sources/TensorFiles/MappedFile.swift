internal import Glibc

/// A file's bytes in memory, read by the kernel when they are touched.
public final class MappedFile: @unchecked Sendable {
  /// The file's first byte.
  public let start: UnsafeRawPointer
  public let byteCount: Int
  public let path: String

  /// Maps a file that must not shrink while it is in use. Throws `.system`.
  public init(_ file: File) throws(TensorFileError) {
    path = file.path
    byteCount = try file.byteCount()
    guard byteCount > 0 else {
      start = UnsafeRawPointer(bitPattern: 64)!
      return
    }
    guard let memory = mmap(nil, byteCount, PROT_READ, MAP_PRIVATE, file.descriptor, 0), memory != MAP_FAILED else {
      throw .system(path: file.path, operation: "map", code: errno)
    }
    start = UnsafeRawPointer(memory)
  }

  deinit { if byteCount > 0 { munmap(UnsafeMutableRawPointer(mutating: start), byteCount) } }
}
