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

  /// The names in a directory, sorted, without `.` and `..`. Throws `.system`.
  public static func names(in directory: String) throws(TensorFileError) -> [String] {
    guard let stream = opendir(directory) else {
      throw .system(path: directory, operation: "list", code: errno)
    }
    defer { closedir(stream) }
    var names: [String] = []
    while let entry = readdir(stream) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if name != "." && name != ".." { names.append(name) }
    }
    return names.sorted()
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

  /// The part after the last slash, trailing slashes aside.
  public static func lastComponent(_ path: String) -> String {
    String(trimmed(path).split(separator: "/").last ?? "")
  }

  /// The part before the last component: "." for a plain name, "/" for the root's children.
  public static func parentDirectory(_ path: String) -> String {
    let path = trimmed(path)
    guard let slash = path.lastIndex(of: "/") else { return "." }
    let parent = path[..<slash]
    return parent.isEmpty ? "/" : trimmed(String(parent))
  }

  private static func trimmed(_ path: String) -> String {
    var path = Substring(path)
    while path.count > 1 && path.last == "/" { path.removeLast() }
    return String(path)
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
    try makeDirectory(path)
  }

  /// Gives a file or directory another name in one step; a file that has the name goes. Throws `.system`.
  public static func rename(_ path: String, to target: String) throws(TensorFileError) {
    guard Glibc.rename(path, target) == 0 else { throw .system(path: target, operation: "create", code: errno) }
  }

  /// Removes a file, or a directory with all in it. Links are removed, not followed. Throws `.system`.
  public static func remove(_ path: String) throws(TensorFileError) {
    var status = stat()
    guard lstat(path, &status) == 0 else { throw .system(path: path, operation: "examine", code: errno) }
    if status.st_mode & S_IFMT == S_IFDIR {
      for name in try names(in: path) { try remove(join(path, name)) }
      guard rmdir(path) == 0 else { throw .system(path: path, operation: "remove", code: errno) }
    } else {
      guard unlink(path) == 0 else { throw .system(path: path, operation: "remove", code: errno) }
    }
  }

  /// Bytes that an ordinary user may still write to the file system that holds `path`. Throws `.system`.
  public static func availableBytes(at path: String) throws(TensorFileError) -> Int {
    var status = statvfs()
    guard statvfs(path, &status) == 0 else { throw .system(path: path, operation: "examine", code: errno) }
    return Int(clamping: UInt64(status.f_bavail) * UInt64(status.f_frsize))
  }

  /// Copies a file's bytes; `target` must not exist. Throws `.system`, `.shortRead`.
  public static func copy(_ source: String, to target: String) throws(TensorFileError) {
    let from = try File.open(reading: source)
    let to = try File.create(target)
    try to.copy(0..<from.byteCount(), from: from, to: 0)
  }

  /// A file's text, which must be UTF-8 to be parsed later; invalid bytes become replacement characters.
  public static func text(_ path: String) throws(TensorFileError) -> String {
    let file = try File.open(reading: path)
    return String(decoding: try file.bytes(0..<file.byteCount()), as: UTF8.self)
  }
}
