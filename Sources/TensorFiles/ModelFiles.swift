internal import Glibc

/// Which files of a model's directory may be read: those that stand in it.
///
/// A link counts as the file that it leads to if that stands in the directory too, or if it is a blob of the Hugging Face
/// cache that the directory is a snapshot of. Any other link leads to a file that nobody gave with the model.
public enum ModelFiles {
  /// What a directory has under a name.
  package enum Entry: Sendable, Hashable {
    /// A regular file, or a link to one that counts as in the directory.
    case file
    case directory
    /// A link to a directory that counts as in the directory.
    case linkedDirectory
    /// A link that leads to nothing, or in a circle.
    case brokenLink
    /// A pipe, a socket or a device.
    case special
    case nothing
  }

  /// What stands at `path` below the model's directory `root`. Opens nothing.
  ///
  /// Throws `.linkOutside` for a link that leads out of the model, `.system`.
  package static func entry(_ path: String, root: String) throws(TensorFileError) -> Entry {
    var status = stat()
    guard lstat(path, &status) == 0 else {
      guard errno == ENOENT || errno == ENOTDIR else { throw .system(path: path, operation: "examine", code: errno) }
      return .nothing
    }
    switch status.st_mode & S_IFMT {
    case S_IFREG: return .file
    case S_IFDIR: return .directory
    case S_IFLNK: break
    default: return .special
    }
    guard let target = FileSystem.canonicalPath(path), let kind = FileSystem.kind(path) else { return .brokenLink }
    guard isInside(root, target: target) else { throw .linkOutside(path: path, target: target) }
    return kind == .file ? .file : kind == .directory ? .linkedDirectory : .special
  }

  /// The path of the model's file `name`, or nil if the directory has no such file.
  ///
  /// Throws `.linkOutside`, `.system`.
  public static func path(_ name: String, in directory: String) throws(TensorFileError) -> String? {
    let path = FileSystem.join(directory, name)
    return try entry(path, root: directory) == .file ? path : nil
  }

  /// True if a file in `directory` is no link, or a link that counts as in the directory.
  static func isInside(_ directory: String, linked path: String) -> Bool {
    FileSystem.canonicalPath(path).map { isInside(directory, target: $0) } ?? false
  }

  /// Source: huggingface_hub/file_download.py, utils/_shared_blobs.py: a snapshot's links lead to `blobs` of the repository,
  /// whose entries may themselves be links to the store that all repositories of a cache share.
  private static func isInside(_ directory: String, target: String) -> Bool {
    guard let root = FileSystem.canonicalPath(directory) else { return false }
    if target == root || FileSystem.isPath(target, inside: root) { return true }
    let blobs = FileSystem.parentDirectory(target)
    var snapshot = root
    while snapshot != "/" {
      let snapshots = FileSystem.parentDirectory(snapshot)
      if FileSystem.lastComponent(snapshots) == "snapshots" {
        let repository = FileSystem.parentDirectory(snapshots)
        if blobs == FileSystem.join(repository, "blobs") { return true }
        let shared = FileSystem.join(FileSystem.parentDirectory(repository), "blobs")
        return FileSystem.parentDirectory(blobs) == shared
          && FileSystem.kind(FileSystem.join(shared, ".huggingface-shared-blobs")) == .file
      }
      snapshot = snapshots
    }
    return false
  }
}
