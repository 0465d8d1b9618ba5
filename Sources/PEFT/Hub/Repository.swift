internal import Glibc
internal import TensorFiles

/// A model or adapter by its name on a hub: `facebook/opt-350m` or `gpt2`, with `@revision` after it or without.
public struct Repository: Sendable, Hashable {
  /// `owner/name`, or `name` alone.
  public let name: String
  /// A branch, a tag or a commit; `main` if none is given.
  public let revision: String
  /// A directory or a file within it, parts separated by slashes; empty for the whole.
  public let path: String

  /// Nil for a word that cannot be a repository's name, such as a path, or a name alone that ends as a file does.
  ///
  /// Source: huggingface_hub/utils/_validators.py `validate_repo_id`.
  public init?(_ word: String) {
    let parts = word.split(separator: "@", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
    self.init(name: parts[0], revision: parts.count > 1 ? parts[1] : "main", path: "")
    guard name.contains("/") || !HubListing.isFile(name) else { return nil }
  }

  /// Nil for what can be no name, revision or path.
  init?(name: String, revision: String, path: String) {
    let names = name.split(separator: "/", omittingEmptySubsequences: false)
    func isPlain(_ text: Substring) -> Bool {
      !text.isEmpty && text.utf8.count <= 96
        && text.utf8.allSatisfy { byte in
          (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
            || [0x2D, 0x2E, 0x5F].contains(byte)
        } && !text.contains("--") && !text.contains("..") && !".-".contains(text.first ?? ".")
        && !".-".contains(text.last ?? ".")
    }
    guard names.count <= 2, names.allSatisfy(isPlain), !name.hasSuffix(".git") else { return nil }
    guard !revision.isEmpty, !revision.contains(".."), revision.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
      return nil
    }
    let places = path.isEmpty ? [] : path.split(separator: "/", omittingEmptySubsequences: false)
    guard
      places.allSatisfy({ place in
        !["", ".", ".."].contains(place) && place.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7F }
      })
    else { return nil }
    (self.name, self.revision, self.path) = (name, revision, path)
  }

  /// The directory that is looked into: `path`, or where it lies if it is a file.
  var folder: String {
    guard HubListing.isFile(path) else { return path }
    return path.split(separator: "/").dropLast().joined(separator: "/")
  }

  /// What stands before the names of files in `folder`.
  var prefix: String { folder.isEmpty ? "" : folder + "/" }
}

/// How far the download of one file is.
public struct HubProgress: Sendable, Hashable {
  /// What goes on.
  public enum State: Sendable, Hashable {
    /// Bytes come.
    case transferring
    /// Another program fetches the same file; this one waits until it is done.
    case waiting
    /// A request failed for that reason and is made again after so many seconds.
    case retrying(seconds: Double, reason: String)
    /// Files that the repository has besides cannot be fetched for that reason; what the cache holds is used.
    case usingCache(reason: String)
  }

  /// `owner/name`.
  public let repository: String
  public let file: String
  /// Bytes that are here, those of an earlier attempt counted.
  public let doneBytes: Int
  /// Bytes of the whole file, if the hub says.
  public let totalBytes: Int?
  public let state: State
}

/// Where repositories are kept and fetched from, as the environment says: HF_HUB_CACHE or HUGGINGFACE_HUB_CACHE,
/// HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE.
///
/// Source: huggingface_hub/constants.py, file_download.py; the cache is the same and can be shared.
public struct Hub: Sendable {
  /// The cache's directory.
  public let cache: String
  /// Where files come from, without a slash at the end.
  public let endpoint: String
  /// Sent to the endpoint's host only, and never shown.
  let token: String?
  /// True to use what is in the cache only.
  public let isOffline: Bool
  package var limits = HubLimits()

  public init(cache: String, endpoint: String = "https://huggingface.co", token: String? = nil, isOffline: Bool = false)
  {
    self.cache = cache
    self.endpoint = endpoint.hasSuffix("/") ? String(endpoint.dropLast()) : endpoint
    // What cannot stand in a header is no token.
    self.token = token.flatMap { $0.utf8.allSatisfy { (0x21...0x7E).contains($0) } && !$0.isEmpty ? $0 : nil }
    self.isOffline = isOffline
  }

  /// The hub that the environment describes.
  public init(environment: (String) -> String? = Hub.variable, isOffline: Bool = false) {
    func value(_ name: String) -> String? { environment(name).flatMap { $0.isEmpty ? nil : $0 } }
    func path(_ name: String) -> String? { value(name).map { Self.expanded($0, environment) } }
    let user = value("XDG_CACHE_HOME") ?? "\(value("HOME") ?? "")/.cache"
    let home = path("HF_HOME") ?? Self.expanded("\(user)/huggingface", environment)
    let flag = (value("HF_HUB_OFFLINE") ?? value("TRANSFORMERS_OFFLINE"))?.uppercased() ?? ""
    var token = value("HF_TOKEN") ?? value("HUGGING_FACE_HUB_TOKEN")
    if token == nil, let text = try? FileSystem.text(path("HF_TOKEN_PATH") ?? "\(home)/token") {
      let word = text.split(whereSeparator: \.isWhitespace).first.map(String.init)
      token = word
    }
    self.init(
      cache: path("HF_HUB_CACHE") ?? path("HUGGINGFACE_HUB_CACHE") ?? "\(home)/hub",
      endpoint: value("HF_ENDPOINT") ?? "https://huggingface.co",
      token: token, isOffline: isOffline || ["1", "ON", "YES", "TRUE"].contains(flag))
  }

  /// A path with `~` at its beginning and `$NAME` or `${NAME}` anywhere as Python's `os.path` expands them; a variable that is not set
  /// stays as it is written.
  private static func expanded(_ path: String, _ environment: (String) -> String?) -> String {
    let home = path == "~" || path.hasPrefix("~/") ? environment("HOME").map { $0 + path.dropFirst() } : nil
    // Most paths have none, and are spared the making of a pattern, which takes as long as to read an adapter.
    guard (home ?? path).utf8.contains(UInt8(ascii: "$")) else { return home ?? path }
    return (home ?? path).replacing(/\$(?:(\w+)|\{([^}]*)\})/.asciiOnlyWordCharacters()) { match in
      environment(String(match.1 ?? match.2 ?? "")) ?? String(match.0)
    }
  }

  /// A variable of the process's environment.
  public static let variable: @Sendable (String) -> String? = { name in getenv(name).map { String(cString: $0) } }

  /// The directory of a repository's files, or the file that it names: in the cache, or downloaded into it.
  ///
  /// - Parameter report: told of each file that is downloaded when it begins, some times a second, and when it ends.
  /// What huggingface_hub put into the cache is used as it is, if nothing is missing; where it fetched only a part that serves,
  /// the rest is fetched, or `report` is told why not. A task that is cancelled ends the
  /// download at once; what is there by then is kept.
  /// Throws `.notInCache`, `.incompleteInCache` when offline; `.download`, `.hubRefused`, `.hubBusy`,
  /// `.downloadInterrupted`, `.file`.
  public func directory(of repository: Repository, report: @escaping (HubProgress) -> Void = { _ in })
    throws(AdapterError)
    -> String
  {
    let directory = try folder(of: repository, report)
    return repository.path == repository.folder
      ? directory : "\(directory)/\(FileSystem.lastComponent(repository.path))"
  }

  private func folder(of repository: Repository, _ report: @escaping (HubProgress) -> Void) throws(AdapterError)
    -> String
  {
    switch HubSnapshot(repository, folder: folder(repository)) {
    case .whole(let directory): return directory
    case .incomplete(let directory, let missing) where isOffline:
      throw .incompleteInCache(name: repository.name, directory: directory, missing: missing)
    case .absent where isOffline:
      throw .notInCache(name: repository.name, revision: repository.revision, cache: cache)
    case .usable(let directory):
      if isOffline { return directory }
      do throws(AdapterError) { return try download(repository, report) } catch {
        // Nothing that is needed is missing: without the hub it is used as it is.
        if case .downloadInterrupted = error { throw error }
        report(
          HubProgress(
            repository: repository.name, file: directory, doneBytes: 0, totalBytes: nil,
            state: .usingCache(reason: error.facts)))
        return directory
      }
    case .incomplete, .absent: return try download(repository, report)
    }
  }

  private func download(
    _ repository: Repository, _ report: @escaping (HubProgress) -> Void
  ) throws(AdapterError) -> String {
    try HubDownload(hub: self, repository: repository, report: report).run()
  }

  /// Where the repository's folder stands in the cache.
  func folder(_ repository: Repository) -> String {
    FileSystem.join(cache, "models--" + repository.name.replacing("/", with: "--"))
  }
}
