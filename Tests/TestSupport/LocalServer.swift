internal import Glibc
internal import Synchronization

/// An HTTP server on the loopback address for one test: what it is asked is recorded, what it answers is given.
public final class LocalServer: Sendable {
  /// What was asked.
  public struct Request: Sendable {
    public let method: String
    public let path: String
    /// Names in lower case.
    public let headers: [String: String]
  }

  /// What is answered.
  public struct Response: Sendable {
    public let status: String
    public let headers: [String]
    public let body: [UInt8]
    public let ending: Ending

    /// - Parameter ending: what happens after `body`; the answer's length is said to be that of the body unless a header
    ///   says otherwise.
    public init(_ status: String, headers: [String] = [], body: [UInt8] = [], ending: Ending = .close) {
      self.status = status
      self.headers = headers
      self.body = body
      self.ending = ending
    }
  }

  /// What a server does when it has sent a body.
  public enum Ending: Sendable {
    case close
    /// Waits for the client to go.
    case silence
    /// Sends the body again and again until the client goes.
    case endless
  }

  public let port: Int
  private let socket: Int32
  private let seen = Mutex<[Request]>([])
  private let answer: @Sendable (Request) -> Response

  /// Connections whose client went while the server was silent.
  private let left = Mutex(0)

  /// How many clients have gone while they were kept waiting.
  public var departures: Int { left.withLock { $0 } }

  /// All requests so far.
  public var requests: [Request] { seen.withLock { $0 } }

  /// Starts on a free port.
  public init(_ answer: @escaping @Sendable (Request) -> Response) {
    self.answer = answer
    let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
        _ = bind(socket, address, length)
        _ = listen(socket, 16)
        _ = getsockname(socket, address, &length)
      }
    }
    self.socket = socket
    port = Int(UInt16(bigEndian: address.sin_port))
    var thread = pthread_t()
    let context = Unmanaged.passRetained(self).toOpaque()
    pthread_create(
      &thread, nil,
      { argument in
        guard let argument else { return nil }
        Unmanaged<LocalServer>.fromOpaque(argument).takeRetainedValue().serve()
        return nil
      }, context)
    pthread_detach(thread)
  }

  /// Stops taking connections.
  public func stop() { shutdown(socket, Int32(SHUT_RDWR)) }

  private func serve() {
    while true {
      let connection = accept(socket, nil, nil)
      guard connection >= 0 else { break }
      // A thread each: one that is kept waiting holds up no other. Nobody waits for more than 30 seconds.
      var limit = timeval(tv_sec: 30, tv_usec: 0)
      for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
        setsockopt(connection, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
      }
      var thread = pthread_t()
      let context = Unmanaged.passRetained(Connection(server: self, descriptor: connection)).toOpaque()
      pthread_create(
        &thread, nil,
        { argument in
          guard let argument else { return nil }
          let connection = Unmanaged<Connection>.fromOpaque(argument).takeRetainedValue()
          connection.server.handle(connection.descriptor)
          close(connection.descriptor)
          return nil
        }, context)
      pthread_detach(thread)
    }
    close(socket)
  }

  private final class Connection: Sendable {
    let server: LocalServer
    let descriptor: Int32

    init(server: LocalServer, descriptor: Int32) {
      self.server = server
      self.descriptor = descriptor
    }
  }

  private func handle(_ connection: Int32) {
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 4096)
    while !String(decoding: bytes, as: UTF8.self).contains("\r\n\r\n") {
      let count = read(connection, &buffer, buffer.count)
      guard count > 0 else { return }
      bytes += buffer[..<count]
    }
    let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\r\n").map(String.init)
    let words = lines[0].split(separator: " ").map(String.init)
    var headers: [String: String] = [:]
    for line in lines.dropFirst() {
      let parts = line.split(separator: ":", maxSplits: 1)
      if parts.count == 2 { headers[parts[0].lowercased()] = String(parts[1].drop { $0 == " " }) }
    }
    let request = Request(method: words[0], path: words[1], headers: headers)
    seen.withLock { $0.append(request) }
    let response = answer(request)
    var head = "HTTP/1.1 \(response.status)\r\nConnection: close\r\n"
    if !response.headers.contains(where: { $0.lowercased().hasPrefix("content-length") }) {
      head += "Content-Length: \(response.body.count)\r\n"
    }
    head += response.headers.map { $0 + "\r\n" }.joined() + "\r\n"
    guard send(Array(head.utf8), connection), request.method != "HEAD", send(response.body, connection) else { return }
    switch response.ending {
    case .close: break
    case .endless: while send(response.body, connection) {}
    case .silence:
      if read(connection, &buffer, 1) == 0 { left.withLock { $0 += 1 } }
    }
  }

  private func send(_ data: [UInt8], _ connection: Int32) -> Bool {
    var done = 0
    while done < data.count {
      let count = data.withUnsafeBytes {
        Glibc.send(connection, $0.baseAddress! + done, data.count - done, Int32(MSG_NOSIGNAL))
      }
      guard count > 0 else { return false }
      done += count
    }
    return true
  }
}
