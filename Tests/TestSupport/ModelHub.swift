internal import Glibc
internal import Synchronization
internal import TensorFiles

/// A hub with one model, `owner/tiny`, at one commit.
public final class ModelHub: Sendable {
  public static let commit = String(repeating: "ab", count: 20)

  public let server: LocalServer
  public var endpoint: String { "http://127.0.0.1:\(server.port)" }

  /// Requests for a file's bytes.
  public func fetches(of name: String) -> [LocalServer.Request] {
    server.requests.filter { $0.method == "GET" && $0.path.hasSuffix("/\(name)") }
  }

  /// - Parameter files: names and contents; weights have the large-file store's digests, all else git's.
  /// - Parameter answer: an answer in place of the honest one; `count` is how many requests for that path came before.
  public init(
    _ files: [(name: String, body: [UInt8])],
    answer:
      @escaping @Sendable (_ path: String, _ count: Int, _ honest: LocalServer.Response) -> LocalServer.Response? = {
        _, _, _ in nil
      }
  ) {
    let counts = Counts()
    server = LocalServer { request in
      let path = request.path
      let honest = Self.answer(path, request.headers["range"], files)
      return answer(path, request.method == "GET" ? counts.next(path) : 0, honest) ?? honest
    }
  }

  /// A hub of the files in a directory.
  public convenience init(
    directory: String,
    answer:
      @escaping @Sendable (_ path: String, _ count: Int, _ honest: LocalServer.Response) -> LocalServer.Response? = {
        _, _, _ in nil
      }
  ) throws {
    let names = try FileSystem.names(in: directory)
    self.init(try names.map { (name: $0, body: try contents(FileSystem.join(directory, $0))) }, answer: answer)
  }

  private static func answer(
    _ path: String, _ range: String?, _ files: [(name: String, body: [UInt8])]
  ) -> LocalServer.Response {
    if path.hasPrefix("/api/models/owner/tiny/revision/") {
      let entries = files.map { file in
        let large = digest(file.name, file.body)
        let isLarge = large.count == 64
        return "{\"rfilename\": \"\(file.name)\", \"size\": \(file.body.count), \"blobId\": \"\(gitDigest(file.body))\""
          + (isLarge
            ? ", \"lfs\": {\"sha256\": \"\(large)\", \"size\": \(file.body.count), \"pointerSize\": 130}}" : "}")
      }
      let text = "{\"sha\": \"\(commit)\", \"siblings\": [\(entries.joined(separator: ", "))]}"
      return LocalServer.Response("200 OK", body: Array(text.utf8))
    }
    guard let file = files.first(where: { path == "/owner/tiny/resolve/\(commit)/\($0.name)" }) else {
      return LocalServer.Response("404 Not Found", headers: ["X-Error-Code: EntryNotFound"])
    }
    guard let start = range.flatMap({ Int($0.dropFirst(6).dropLast()) }) else {
      return LocalServer.Response("200 OK", body: file.body)
    }
    return LocalServer.Response(
      "206 Partial Content",
      headers: ["Content-Range: bytes \(start)-\(file.body.count - 1)/\(file.body.count)"],
      body: Array(file.body[min(start, file.body.count)...]))
  }

  /// The digest by which the cache calls a file.
  public static func digest(_ name: String, _ body: [UInt8]) -> String {
    guard name.hasSuffix(".safetensors") || name.hasSuffix(".bin") else { return gitDigest(body) }
    var hash = SHA256()
    hash.add(body.span.bytes)
    return hash.finish()
  }

  /// Git's name for a file with that content.
  public static func gitDigest(_ body: [UInt8]) -> String {
    var hash = SHA1()
    let all = Array("blob \(body.count)\0".utf8) + body
    hash.add(all.span.bytes)
    return hash.finish()
  }
}

private final class Counts: Sendable {
  private let counts = Mutex<[String: Int]>([:])

  func next(_ path: String) -> Int {
    counts.withLock { counts in
      counts[path, default: -1] += 1
      return counts[path] ?? 0
    }
  }
}

/// Waits up to two minutes for something that other threads or processes do. Returns whether it came.
public func comes(_ condition: () -> Bool) -> Bool {
  for _ in 0..<12_000 {
    if condition() { return true }
    usleep(10_000)
  }
  return condition()
}

/// Does something when a condition holds, or after two minutes; on a thread that no task needs.
public func once(_ condition: @escaping @Sendable () -> Bool, do act: @escaping @Sendable () -> Void) {
  var thread = pthread_t()
  let context = Unmanaged.passRetained(
    Deed {
      _ = comes(condition)
      act()
    }
  ).toOpaque()
  pthread_create(
    &thread, nil,
    { argument in
      guard let argument else { return nil }
      Unmanaged<Deed>.fromOpaque(argument).takeRetainedValue().act()
      return nil
    }, context)
  pthread_detach(thread)
}

private final class Deed: Sendable {
  let act: @Sendable () -> Void

  init(_ act: @escaping @Sendable () -> Void) { self.act = act }
}
