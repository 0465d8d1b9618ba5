internal import Glibc

/// Questions to and small acts on the file system, as thin as they can be.
public enum FileSystem {
  /// What is at a path.
  public enum Kind: Sendable { case file, directory, other }

  /// What `path` leads to, following links; nil if nothing is there.
  public static func kind(_ path: String) -> Kind? {
    var status = stat()
    guard stat(path, &status) == 0 else { return nil }
    switch status.st_mode & S_IFMT {
    case S_IFREG: return .file
    case S_IFDIR: return .directory
    default: return .other
    }
  }

  /// True if the directory has that name, even if the name leads nowhere.
  public static func exists(_ path: String) -> Bool {
    var status = stat()
    return lstat(path, &status) == 0
  }

  /// The names in a directory, sorted by code points, without `.` and `..`. Throws `.system`, and `.nameNotUTF8` for a name that text cannot hold.
  public static func names(in directory: String) throws(TensorFileError) -> [String] {
    var names: [String] = []
    for entry in try entries(in: directory) {
      guard let name = String(validating: entry, as: UTF8.self) else {
        throw .nameNotUTF8(directory: directory, name: entry)
      }
      names.append(name)
    }
    return names.inExactOrder()
  }

  /// The names in a directory as the bytes that they are, in no order. Throws `.system`.
  static func entries(in directory: String) throws(TensorFileError) -> [[UInt8]] {
    guard let stream = opendir(directory) else {
      throw .system(path: directory, operation: "list", code: errno)
    }
    defer { closedir(stream) }
    return try entries(of: stream, directory)
  }

  private static func entries(
    of stream: OpaquePointer, _ directory: String
  ) throws(TensorFileError) -> [[UInt8]] {
    var names: [[UInt8]] = []
    while true {
      errno = 0
      guard let entry = readdir(stream) else { break }
      // Soundness: the kernel ends the name with a zero inside the field.
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { Array($0.prefix { $0 != 0 }) }
      if name != [0x2E] && name != [0x2E, 0x2E] { names.append(name) }
    }
    guard errno == 0 else { throw .system(path: directory, operation: "list", code: errno) }
    return names
  }

  /// The absolute path without links, `.` and `..`; nil if it does not exist.
  public static func canonicalPath(_ path: String) -> String? {
    guard let resolved = realpath(path, nil) else { return nil }
    defer { free(resolved) }
    return String(cString: resolved)
  }

  /// As `canonicalPath`, for a path whose last parts may not exist yet.
  public static func canonicalPathOfFuture(_ path: String) -> String {
    if let path = canonicalPath(path) { return path }
    let name = lastComponent(path)
    let parent = parentDirectory(path)
    if parent == path { return path }
    let base = canonicalPathOfFuture(parent)
    return base == "/" ? "/\(name)" : "\(base)/\(name)"
  }

  /// True if `path` lies in `directory`; both canonical. Compares bytes: a name may begin with a combining mark.
  static func isPath(_ path: String, inside directory: String) -> Bool {
    let prefix = directory == "/" ? "/" : directory + "/"
    return path.utf8.count > prefix.utf8.count && path.utf8.starts(with: prefix.utf8)
  }

  /// The part after the last slash, trailing slashes aside.
  public static func lastComponent(_ path: String) -> String {
    trimmed(path).utf8.split(separator: slash).last.map { String(Substring($0)) } ?? ""
  }

  /// The part before the last component: "." for a plain name, "/" for the root's children.
  public static func parentDirectory(_ path: String) -> String {
    let path = trimmed(path)
    guard let slash = path.utf8.lastIndex(of: slash) else { return "." }
    let parent = path[..<slash]
    return parent.isEmpty ? "/" : trimmed(String(parent))
  }

  private static let slash = UInt8(ascii: "/")

  private static func trimmed(_ path: String) -> String {
    var path = path.utf8[...]
    while path.count > 1 && path.last == slash { path.removeLast() }
    return String(Substring(path))
  }

  /// `directory` and a name in it as one path.
  public static func join(_ directory: String, _ name: String) -> String {
    directory.hasSuffix("/") ? directory + name : "\(directory)/\(name)"
  }

  /// Makes one directory. Throws `.system`.
  public static func makeDirectory(_ path: String) throws(TensorFileError) {
    guard mkdir(path, 0o777) == 0 else { throw .system(path: path, operation: "create", code: errno) }
  }

  /// Makes a directory and those above it that are missing. Throws `.system`.
  public static func makeDirectories(_ path: String) throws(TensorFileError) {
    if kind(path) != nil { return }
    let parent = parentDirectory(path)
    if parent != path { try makeDirectories(parent) }
    do throws(TensorFileError) { try makeDirectory(path) } catch {
      // Another program may have made it in the meantime.
      guard kind(path) == .directory else { throw error }
    }
  }

  /// Removes a file, or a directory with all in it, whatever the names. Links are removed, not followed. Throws `.system`.
  public static func remove(_ path: String) throws(TensorFileError) {
    try remove(Array(path.utf8) + [0], in: AT_FDCWD, path)
  }

  /// - Parameter name: ends with a zero; in the open directory `parent`.
  /// - Parameter path: for messages.
  private static func remove(_ name: [UInt8], in parent: Int32, _ path: String) throws(TensorFileError) {
    let name = name.map { CChar(bitPattern: $0) }
    var status = stat()
    guard fstatat(parent, name, &status, AT_SYMLINK_NOFOLLOW) == 0 else {
      throw .system(path: path, operation: "examine", code: errno)
    }
    guard status.st_mode & S_IFMT == S_IFDIR else {
      guard unlinkat(parent, name, 0) == 0 else { throw .system(path: path, operation: "remove", code: errno) }
      return
    }
    let directory = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    guard directory >= 0, let stream = fdopendir(directory) else {
      throw .system(path: path, operation: "list", code: errno)
    }
    defer { closedir(stream) }
    for entry in try entries(of: stream, path) {
      try remove(entry + [0], in: directory, join(path, String(decoding: entry, as: UTF8.self)))
    }
    guard unlinkat(parent, name, AT_REMOVEDIR) == 0 else {
      throw .system(path: path, operation: "remove", code: errno)
    }
  }

  /// Bytes that an ordinary user may still write to the file system that holds `path`. Throws `.system`.
  public static func availableBytes(at path: String) throws(TensorFileError) -> Int {
    var status = statvfs()
    guard statvfs(path, &status) == 0 else { throw .system(path: path, operation: "examine", code: errno) }
    return Int(clamping: UInt64(status.f_bavail) * UInt64(status.f_frsize))
  }

  /// Gives a file another name on the same file system. Throws `.outputExists` if something has the name and `replacing` is
  /// false, `.system`.
  public static func move(_ source: String, to target: String, replacing: Bool) throws(TensorFileError) {
    if replacing {
      guard rename(source, target) == 0 else { throw .system(path: target, operation: "create", code: errno) }
      return
    }
    guard link(source, target) == 0 else {
      if errno == EEXIST { throw .outputExists(path: target) }
      throw .system(path: target, operation: "create", code: errno)
    }
    unlink(source)
  }

  /// Copies a file's bytes; `target` must not exist. Throws `.system`, `.shortRead`.
  public static func copy(_ source: String, to target: String) throws(TensorFileError) {
    let from = try OpenFile.open(reading: source)
    let to = try OpenFile.create(target, permissions: FilePermissions(of: [source]))
    try to.copy(0..<from.byteCount(), from: from, to: 0)
  }

  /// A file's text, which must be UTF-8 to be parsed later; invalid bytes become replacement characters.
  ///
  /// - Parameter limit: bytes that the file may have; a gibibyte if not given.
  /// Throws `.system`, `.notAFile`, and `.textTooLarge` before any of it is read.
  public static func text(_ path: String, limit: Int = 1 << 30) throws(TensorFileError) -> String {
    let file = try OpenFile.open(reading: path)
    let count = try file.byteCount()
    guard count <= limit else { throw .textTooLarge(path: path, byteCount: count, limit: limit) }
    return String(decoding: try file.bytes(0..<count), as: UTF8.self)
  }
}
