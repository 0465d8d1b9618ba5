// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
]

func library(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .target(name: name, dependencies: dependencies, swiftSettings: strict)
}

func tool(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .executableTarget(name: name, dependencies: dependencies, swiftSettings: strict)
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .testTarget(
    name: name, dependencies: dependencies + ["TestSupport"], exclude: name == "PeftToolCLITests" ? ["Snapshots"] : [],
    swiftSettings: strict)
}

func system(_ name: String, pkgConfig: String, apt package: String) -> Target {
  .systemLibrary(name: name, pkgConfig: pkgConfig, providers: [.apt([package])])
}

let package = Package(
  name: "peft-tool",
  products: [
    .library(name: "TensorFiles", targets: ["TensorFiles"]),
    .library(name: "TensorMath", targets: ["TensorMath"]),
    .library(name: "PEFT", targets: ["PEFT", "TensorFiles"]),
    .library(name: "LanguageModels", targets: ["LanguageModels"]),
    .library(name: "Training", targets: ["Training"]),
    .executable(name: "peft-tool", targets: ["peft-tool"]),
  ],
  traits: [.trait(name: "MPI", description: "Several ranks under mpirun: docs/clusters.md. Needs libopenmpi-dev.")],
  targets: [
    .target(
      name: "CKernels",
      cSettings: [.unsafeFlags(["-O3", "-Werror=ignored-attributes"])]),
    system("COpenBLAS", pkgConfig: "openblas", apt: "libopenblas-dev"),
    system("CPCRE2", pkgConfig: "libpcre2-8", apt: "libpcre2-dev"),
    system("CJansson", pkgConfig: "jansson", apt: "libjansson-dev"),
    system("CZlib", pkgConfig: "zlib", apt: "zlib1g-dev"),
    system("CNettle", pkgConfig: "nettle", apt: "nettle-dev"),
    // Its pkg-config file has a flag that the package manager does not take; the header is in the compiler's own path.
    .systemLibrary(name: "CUTF8Proc", providers: [.apt(["libutf8proc-dev"])]),
    system("COpenMPI", pkgConfig: "ompi-c", apt: "libopenmpi-dev"),
    .target(name: "CLinux"),
    .target(name: "CStart"),
    library("TensorMath", ["CKernels", "COpenBLAS"]),
    library("TensorFiles", ["CJansson", "CLinux", "CNettle", "CZlib"]),
    library("PEFT", ["TensorMath", "TensorFiles", "CPCRE2"]),
    library("LanguageModels", ["PEFT", "TensorMath", "TensorFiles", "CPCRE2", "CUTF8Proc"]),
    library(
      "Training",
      [
        "LanguageModels", "PEFT", "TensorFiles", "TensorMath",
        .target(name: "COpenMPI", condition: .when(traits: ["MPI"])),
      ]),
    library("PeftToolCLI", ["Training", "LanguageModels", "PEFT", "TensorFiles"]),
    tool("peft-tool", ["PeftToolCLI", "CStart"]),
    tool("peft-bench", ["Training", "LanguageModels", "PEFT", "TensorFiles", "TensorMath"]),
    .target(
      name: "TestSupport", dependencies: ["TensorFiles"], path: "Tests/TestSupport",
      swiftSettings: strict),
    .executableTarget(
      name: "readme-example", dependencies: ["PEFT"], path: "Tests/ReadmeExample", swiftSettings: strict),
    tests("TensorMathTests", ["TensorMath", "CKernels", "COpenBLAS", "TensorFiles"]),
    tests("TensorFilesTests", ["TensorFiles"]),
    tests("PEFTTests", ["PEFT", "TensorFiles", "TensorMath"]),
    tests("LanguageModelsTests", ["LanguageModels", "PEFT", "TensorFiles", "TensorMath"]),
    tests("TrainingTests", ["Training", "LanguageModels", "PEFT", "TensorFiles", "TensorMath"]),
    tests("ClientTests", ["LanguageModels", "PEFT", "TensorFiles", "TensorMath"]),
    tests("PeftToolCLITests", ["PeftToolCLI", "PEFT", "TensorFiles"]),
    tests("peft-toolTests", ["TensorFiles", "PEFT", "peft-tool", "readme-example"]),
  ],
  cLanguageStandard: .c11
)

// One target's tests without the rest of the package: `make test` builds those of the arithmetic with optimisation too.
if let tests = Context.environment["TESTS_OF"] {
  var needed: Set = [tests]
  while true {
    let more = package.targets.filter { needed.contains($0.name) }.flatMap(\.dependencies).compactMap { dependency in
      if case .byNameItem(let name, _) = dependency { name } else { nil as String? }
    }
    guard !needed.isSuperset(of: more) else { break }
    needed.formUnion(more)
  }
  package.products = []
  package.targets.removeAll { !needed.contains($0.name) }
}
