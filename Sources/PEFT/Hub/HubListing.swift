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
  /// Files of a model or adapter by name, with size and digest where the listing has them.
  let files: [(name: String, described: HubFile?)]

  /// Reads the hub's answer; nil if it names no commit.
  init?(answer text: String) {
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
    self.init(commit: commit, entries)
  }

  /// Reads the listing that huggingface_hub keeps in the cache beside the snapshots; nil if there is none that is known here.
  init?(cached path: String, commit: String) {
    guard let json = try? JSONValue(contentsOf: path), json["format_version"]?.integerValue == 1,
      let files = json["files"]?.members
    else { return nil }
    self.init(
      commit: commit,
      files.map { member in
        let size = (member.value["lfs_size"] ?? member.value["size"])?.integerValue
        let digest = (member.value["lfs_sha256"] ?? member.value["blob_id"])?.stringValue
        return (member.key, Self.file(member.key, size, digest))
      })
  }

  private init(commit: String, _ entries: [(String, HubFile?)]) {
    self.commit = commit
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

  /// Configuration, tokenizer and weights at the top level; torch weights only where there are no safetensors.
  private static func wanted(_ names: [String]) -> Set<String> {
    let plain = names.filter { name in
      !name.isEmpty && !name.hasPrefix(".") && !name.contains("..")
        && name.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != 0x2F }
    }
    let endings = [".json", ".safetensors", ".txt", ".model", ".jinja", ".md", ".bin"]
    let hasSafetensors = plain.contains { $0.hasSuffix(".safetensors") }
    guard plain.contains(where: isWeights) else { return [] }
    return Set(
      plain.filter { name in
        endings.contains(where: name.hasSuffix)
          && !(hasSafetensors && (name.hasSuffix(".bin") || name.hasSuffix(".bin.index.json")))
          && name != "training_args.bin"
      })
  }
}
