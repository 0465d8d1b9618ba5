internal import TensorFiles

/// `trainable_token_indices`: the rows that are trained, of the input embedding or by the modules' names.
struct ListedTokens {
  /// A list without a name: it means the input embedding.
  let forAll: [JSONValue]?
  private let names: NameEndings
  private let lists: [[JSONValue]?]

  init(_ config: PeftConfig) {
    let setting = config.trainableTokenIndices
    let members = setting.members ?? []
    forAll = setting.elements
    names = NameEndings(members.map(\.key))
    lists = members.map(\.value.elements)
  }

  /// The list of the first name that is the path, or its last parts.
  func named(_ path: String) -> [JSONValue]? { names.places(endOf: path).min().flatMap { lists[$0] } }

  /// The first name that is the path, or its last parts.
  func name(of path: String) -> String? { names.places(endOf: path).min().map { names.names[$0] } }
}
