internal import TensorFiles

/// A file of a repository as the hub describes it.
struct HubFile: Sendable, Hashable {
  /// What the file's bytes must give.
  enum Digest: Sendable, Hashable {
    /// SHA-256 of the bytes: files in the large-file store.
    case sha256(String)
    /// SHA-1 of the word `blob`, the size and the bytes: files in git itself.
    case gitBlob(String)

    /// Nil for what is none of the two.
    init?(_ text: String) {
      guard text.utf8.allSatisfy({ (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }) else { return nil }
      switch text.utf8.count {
      case 64: self = .sha256(text)
      case 40: self = .gitBlob(text)
      default: return nil
      }
    }

    /// The hexadecimal digits, which are the blob's name in the cache.
    var text: String {
      switch self {
      case .sha256(let text), .gitBlob(let text): text
      }
    }
  }

  let name: String
  let byteCount: Int
  let digest: Digest
}

/// Which files a repository has at a commit.
///
/// Source: huggingface_hub/hf_api.py `model_info` with `files_metadata`; _tree_cache.py for the form in the cache.
struct HubListing {
  /// The commit, 40 hexadecimal digits.
  let commit: String
  /// Files of a model or adapter by their names in its folder, with size and digest where the listing has them.
  let files: [(name: String, described: HubFile?)]

  /// Reads the hub's answer; nil if it names no commit.
  ///
  /// - Parameter prefix: what names of the folder's files begin with.
  init?(answer text: String, prefix: String) {
    guard let json = JSONValue(parsing: text), let commit = json["sha"]?.stringValue, Self.isCommit(commit) else {
      return nil
    }
    var entries: [(String, HubFile?)] = []
    for entry in json["siblings"]?.elements ?? [] {
      guard let name = entry["rfilename"]?.stringValue else { continue }
      let large = entry["lfs"]
      let size = large?["size"]?.integerValue ?? entry["size"]?.integerValue
      let digest = (large?["sha256"] ?? entry["blobId"])?.stringValue
      entries.append((name, Self.file(name, size, digest)))
    }
    self.init(commit: commit, entries, prefix)
  }

  /// Reads the listing that huggingface_hub keeps in the cache beside the snapshots; nil if there is none that is known here.
  init?(cached path: String, commit: String, prefix: String) {
    guard let json = try? JSONValue(contentsOf: path), json["format_version"]?.integerValue == 1,
      let files = json["files"]?.members
    else { return nil }
    self.init(
      commit: commit,
      files.map { member in
        let size = (member.value["lfs_size"] ?? member.value["size"])?.integerValue
        let digest = (member.value["lfs_sha256"] ?? member.value["blob_id"])?.stringValue
        return (member.key, Self.file(member.key, size, digest))
      }, prefix)
  }

  private init(commit: String, _ all: [(String, HubFile?)], _ prefix: String) {
    self.commit = commit
    let entries = all.compactMap { name, file -> (String, HubFile?)? in
      guard name.hasPrefix(prefix) else { return nil }
      let name = String(name.dropFirst(prefix.count))
      return (name, file.map { HubFile(name: name, byteCount: $0.byteCount, digest: $0.digest) })
    }
    let wanted = Self.wanted(entries.map(\.0))
    var seen: Set<String> = []
    files = entries.filter { wanted.contains($0.0) && seen.insert($0.0).inserted }.map { (name: $0.0, described: $0.1) }
  }

  private static func file(_ name: String, _ size: Int?, _ digest: String?) -> HubFile? {
    guard let size, size >= 0, let digest = digest.flatMap({ HubFile.Digest($0) }) else { return nil }
    return HubFile(name: name, byteCount: size, digest: digest)
  }

  /// True for the whole name of a commit.
  static func isCommit(_ text: String) -> Bool {
    text.utf8.count == 40 && text.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
  }

  /// True for a name of tensors.
  static func isWeights(_ name: String) -> Bool { name.hasSuffix(".safetensors") || name.hasSuffix(".bin") }

  private static let endings = [".json", ".safetensors", ".txt", ".model", ".jinja", ".md", ".bin"]

  /// True for a name that ends as the files do that are fetched.
  static func isFile(_ name: String) -> Bool { endings.contains(where: name.hasSuffix) }

  /// Configuration, tokenizer and weights in the folder itself; torch weights only where there are no safetensors.
  private static func wanted(_ names: [String]) -> Set<String> {
    let plain = names.filter { name in
      !name.isEmpty && !name.hasPrefix(".") && !name.contains("..")
        && name.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != 0x2F }
    }
    let hasSafetensors = plain.contains { $0.hasSuffix(".safetensors") }
    guard plain.contains(where: isWeights) else { return [] }
    return Set(
      plain.filter { name in
        isFile(name)
          && !(hasSafetensors && (name.hasSuffix(".bin") || name.hasSuffix(".bin.index.json")))
          && name != "training_args.bin"
      })
  }
}
