/** Pure. What a release is called, what it consists of, and what forbids it. */

export const ARCHITECTURES = ['amd64', 'arm64'] as const;
export type Architecture = (typeof ARCHITECTURES)[number];

/** What the checkout looks like. */
export interface Checkout {
  /** The `version` of package.json and of package-lock.json. */
  version: string;
  lockVersion: string;
  /** Lines of `git status --porcelain`. */
  changes: readonly string[];
  changelog: string;
  commit: string;
  /** The commit of the tag `tagOf(version)`; undefined when there is no such tag. */
  tagged: string | undefined;
}

/** https://semver.org, the expression that it suggests, with groups that do not capture. */
const SEMVER =
  /^(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)(?:-(?:0|[1-9]\d*|\d*[a-zA-Z-][\da-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][\da-zA-Z-]*))*)?(?:\+[\da-zA-Z-]+(?:\.[\da-zA-Z-]+)*)?$/;

export const tagOf = (version: string): string => `v${version}`;

/** The text below the heading `## VERSION` of a changelog, which may go on with a date; undefined when there is none. */
export function changelogSection(changelog: string, version: string): string | undefined {
  const sections = changelog.split(/^## /m).slice(1);
  const section = sections.find((text) => text.split('\n', 1)[0]!.split(' ', 1)[0] === version);
  return section?.slice(section.indexOf('\n') + 1).trim();
}

/** Why this checkout cannot be released, and what to do, a line each. */
export function refusals(checkout: Checkout): string[] {
  const { version, lockVersion, changes, changelog, commit, tagged } = checkout;
  const section = changelogSection(changelog, version);
  const tag = tagOf(version);
  const reasons: string[] = [];
  if (!SEMVER.test(version))
    reasons.push(`package.json: version ${version} is not a version of SemVer, such as 1.2.3 or 1.2.3-rc.1`);
  if (lockVersion !== version)
    reasons.push(
      `package-lock.json has version ${lockVersion}, package.json ${version}: set it with npm version --no-git-tag-version`,
    );
  if (changes.length > 0)
    reasons.push(
      `the tree is not clean: commit or remove ${changes.map((line) => line.slice(3)).join(', ')}`,
    );
  if (section === undefined)
    reasons.push(`CHANGELOG.md has no section "## ${version}": give "## Unreleased" that name`);
  else if (section === '') reasons.push(`CHANGELOG.md: the section "## ${version}" is empty`);
  if (tagged !== undefined && tagged !== commit)
    reasons.push(
      `the tag ${tag} is on ${tagged.slice(0, 12)}, not on ${commit.slice(0, 12)}: check out the tag, or raise the version`,
    );
  return reasons;
}

export interface ReleaseFiles {
  source: string;
  notes: string;
  checksums: string;
  /** `image`, `frr`: OCI archives. `sbom`, `frrSbom`: SPDX, of either. */
  images: { architecture: Architecture; image: string; frr: string; sbom: string; frrSbom: string }[];
}

/** The names of a release's files. */
export function filesOf(version: string, architectures: readonly Architecture[]): ReleaseFiles {
  return {
    source: `veg-agent-${version}.tar.gz`,
    notes: 'RELEASE-NOTES.md',
    checksums: 'SHA256SUMS',
    images: architectures.map((architecture) => {
      const platform = `${version}-linux-${architecture}`;
      return {
        architecture,
        image: `veg-agent-${platform}.oci.tar`,
        frr: `veg-frr-${platform}.oci.tar`,
        sbom: `veg-agent-${platform}.spdx.json`,
        frrSbom: `veg-frr-${platform}.spdx.json`,
      };
    }),
  };
}

/** The release notes: the changelog's section, and what the files are. */
export function releaseNotes(checkout: Checkout, files: ReleaseFiles): string {
  const { version, commit, changelog } = checkout;
  const rows = [
    [files.source, 'the sources'],
    ...files.images.flatMap(({ architecture, image, frr, sbom, frrSbom }) => [
      [image, `the image for linux/${architecture}, an OCI archive`],
      [sbom, 'what that image contains (SPDX 2.3)'],
      [frr, `the image of the FRR container for linux/${architecture}`],
      [frrSbom, 'what that image contains (SPDX 2.3)'],
    ]),
    [files.checksums, 'the checksums of all of these: `sha256sum --check SHA256SUMS`'],
  ];
  return `# veg-agent ${version}

Commit ${commit}.

${changelogSection(changelog, version)}

## Files

| file | |
|---|---|
${rows.map(([name, what]) => `| ${name} | ${what} |`).join('\n')}
`;
}
