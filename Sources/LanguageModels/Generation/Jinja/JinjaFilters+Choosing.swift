/// Filters that ask a filter or a test about each item. They give generators, which are gone through once.
extension JinjaMachine {
  static let choosingFilters: [String: JinjaRoutine] = [
    "map": JinjaRoutine(free: { (machine, value, given) throws(JinjaFailure) in try machine.mapped(value, given) }),
    "select": choosing(keeps: true, byAttribute: false), "reject": choosing(keeps: false, byAttribute: false),
    "selectattr": choosing(keeps: true, byAttribute: true), "rejectattr": choosing(keeps: false, byAttribute: true),
  ]

  private func mapped(_ value: JinjaValue, _ given: JinjaArguments) throws(JinjaFailure) -> JinjaValue {
    guard try isTrue(value) else { return try budget.iterator([]) }
    var results: [JinjaValue] = []
    let items = try items(of: value, for: "'map'")
    if given.plain.isEmpty, given.named.contains(where: { $0.name.string == "attribute" }) {
      let slots = try given.bound(to: ["attribute", "default"], required: 1, of: "map")
      let path = try path(slots[0])
      for item in items { results.append(try follow(path, from: item, or: slots[1])) }
    } else {
      guard case .text(let name)? = given.plain.first else { throw JinjaFailure("'map' without a filter") }
      let rest = JinjaArguments(plain: Array(given.plain.dropFirst()), named: given.named)
      for item in items {
        try budget.step()
        results.append(try filter(name.string, item, rest))
      }
    }
    return try budget.iterator(results)
  }

  private static func choosing(keeps: Bool, byAttribute: Bool) -> JinjaRoutine {
    JinjaRoutine(free: { (machine, value, given) throws(JinjaFailure) in
      guard try machine.isTrue(value) else { return try machine.budget.iterator([]) }
      var rest = given
      var path: [JinjaValue] = []
      if byAttribute {
        guard let attribute = given.plain.first else { throw JinjaFailure("a choice by attribute without its name") }
        path = try machine.path(attribute)
        rest.plain.removeFirst()
      }
      var testName: String?
      if let name = rest.plain.first {
        guard case .text(let text) = name else { throw JinjaFailure("a test whose name is no text") }
        testName = text.string
        rest.plain.removeFirst()
      }
      var kept: [JinjaValue] = []
      for item in try machine.items(of: value, for: "a choice") {
        try machine.budget.step()
        let found = try machine.follow(path, from: item)
        let holds: Bool
        if let testName { holds = try machine.test(testName, found, rest) } else { holds = try machine.isTrue(found) }
        if holds == keeps { kept.append(item) }
      }
      return try machine.budget.iterator(kept)
    })
  }
}
