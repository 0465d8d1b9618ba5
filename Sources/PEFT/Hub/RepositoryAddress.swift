extension Repository {
  /// Reads `owner/name@revision`, `hf://owner/name@revision/path` and the addresses of a hub's pages, such as
  /// `https://huggingface.co/owner/name/tree/main/path`; nil for what is none of them.
  ///
  /// Source: huggingface_hub/utils/_hf_uris.py `parse_hf_uri`; a name alone, such as `hf://gpt2`, is taken besides.
  /// - Parameter endpoint: the hub whose pages' addresses are known beside huggingface.co's.
  /// Throws `.badAddress` for an address that leads to no model.
  public init?(address: String, endpoint: String = "https://huggingface.co") throws(AdapterError) {
    let lowered = address.lowercased()
    func failure(_ expected: String) -> AdapterError { .badAddress(found: address, expected: expected) }
    var body: Substring
    if lowered.hasPrefix("hf://") {
      body = address.dropFirst(5)
    } else if let page = try Self.page(address, endpoint) {
      body = page[...]
    } else {
      self.init(address)
      return
    }
    if body.hasPrefix("models/") { body = body.dropFirst(7) }
    if let kind = ["datasets", "spaces", "kernels", "buckets"].first(where: { body.hasPrefix("\($0)/") }) {
      throw failure("a model, and not one of the hub's \(kind)")
    }
    if let kind = ["model", "dataset", "space", "kernel", "bucket"].first(where: { body.hasPrefix("\($0)/") }) {
      throw failure("hf://owner/name, and not the kind '\(kind)' before it")
    }
    let text = String(body.trimmed("/"))
    guard let repository = Self(location: text), text.contains("/") || !body.hasSuffix("/") else {
      throw failure("hf://owner/name, with @revision and a path or without")
    }
    self = repository
  }

  /// `name`, `owner/name`, each with `@revision` and then a path, or without.
  private init?(location: String) {
    let slashes = location.indices.filter { location[$0] == "/" }
    // In a file's name the sign is itself.
    if let at = location.firstIndex(of: "@"), slashes.count < 2 || at < slashes[1] {
      let rest = String(location[location.index(after: at)...])
      let special = rest.prefixMatch(of: /refs\/(?:convert\/[\w.\-]+|pr\/\d+)/.asciiOnlyWordCharacters())
      let end = special?.range.upperBound ?? rest.firstIndex(of: "/") ?? rest.endIndex
      self.init(
        name: String(location[..<at]), revision: Self.decoded(rest[..<end]),
        path: String(rest[end...].drop { $0 == "/" }))
    } else if slashes.count >= 2 {
      self.init(
        name: String(location[..<slashes[1]]), revision: "main",
        path: String(location[location.index(after: slashes[1])...]))
    } else {
      self.init(name: location, revision: "main", path: "")
    }
  }

  /// What `hf://` says of a page with this address; nil if it is not the address of a page.
  private static func page(_ address: String, _ endpoint: String) throws(AdapterError) -> String? {
    let hosts = [endpoint, "https://huggingface.co", "https://hf.co"].map { $0.replacing(/^https?:\/\//, with: "") }
    let hasScheme = address.lowercased().hasPrefix("https://") || address.lowercased().hasPrefix("http://")
    let bare =
      hasScheme ? String(address[(address.firstRange(of: "//")?.upperBound ?? address.startIndex)...]) : address
    guard
      let host = hosts.first(where: {
        bare.lowercased() == $0.lowercased() || bare.lowercased().hasPrefix("\($0.lowercased())/")
      })
    else {
      guard hasScheme else { return nil }
      throw .badAddress(found: address, expected: "a page of \(hosts[0])")
    }
    // What a browser puts after a page's path says nothing of the repository.
    let path = bare.dropFirst(host.count).prefix { $0 != "?" && $0 != "#" }
    var segments = path.split(separator: "/").map { decoded($0).replacing("/", with: "%2F") }
    let kind = segments.first.flatMap {
      ["models", "datasets", "spaces", "kernels", "buckets"].contains($0) ? $0 : nil
    }
    if kind != nil { segments.removeFirst() }
    guard segments.count > 1 else {
      throw .badAddress(found: address, expected: "the page of a repository, with its owner and its name")
    }
    let repository = ([kind, segments[0], segments[1]].compactMap { $0 }).joined(separator: "/")
    guard segments.count > 2 else { return repository }
    guard ["blame", "blob", "raw", "resolve", "tree"].contains(segments[2]) else {
      throw .badAddress(found: address, expected: "a repository's page or one of its files, and not /\(segments[2])")
    }
    return segments.count > 3 ? "\(repository)@\(segments[3...].joined(separator: "/"))" : repository
  }

  /// Without the per cent signs of an address.
  private static func decoded(_ text: Substring) -> String {
    var (bytes, left) = ([UInt8](), Array(text.utf8)[...])
    while let byte = left.popFirst() {
      if byte == 0x25, left.count >= 2, let value = UInt8(String(decoding: left.prefix(2), as: UTF8.self), radix: 16),
        left.prefix(2).allSatisfy({ $0 != 0x2B && $0 != 0x2D })
      {
        bytes.append(value)
        left = left.dropFirst(2)
      } else {
        bytes.append(byte)
      }
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}

extension Substring {
  fileprivate func trimmed(_ character: Character) -> Substring {
    var text = drop { $0 == character }
    while text.last == character { text.removeLast() }
    return text
  }
}
