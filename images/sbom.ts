/**
 * Writes the SBOM (SPDX 2.3) of an image whose root file system is ROOT:
 *
 *     sbom.ts ROOT                    of the gateway: ROOT/opt/veg-agent/sbom.spdx.json, with Debian's packages, and the
 *                                     npm packages in the bundle, Node among them, as `npm sbom` describes them
 *     sbom.ts ROOT NAME VERSION       of another one: ROOT/usr/share/NAME/sbom.spdx.json, with Debian's packages
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** A package of SPDX, as far as it is of use here. */
interface Package {
  SPDXID: string;
  name: string;
  versionInfo: string;
  licenseDeclared: string;
  externalRefs: { referenceCategory: string; referenceType: string; referenceLocator: string }[];
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

/** `license`: an SPDX expression. `purl`: https://github.com/package-url/purl-spec */
const toPackage = (name: string, version: string, license: string, purl: string): Package => ({
  SPDXID: `SPDXRef-${sha256(purl).slice(0, 16)}`,
  name,
  versionInfo: version,
  licenseDeclared: license,
  externalRefs: [{ referenceCategory: 'PACKAGE-MANAGER', referenceType: 'purl', referenceLocator: purl }],
});

/** Debian's packages; their licences are in /usr/share/doc/PACKAGE/copyright. */
function debianPackages(root: string): Package[] {
  const release = readFileSync(join(root, 'usr/lib/os-release'), 'utf8');
  const suite = /^VERSION_CODENAME=(\w+)$/m.exec(release)?.[1];
  if (suite === undefined) throw new Error(`${root}/usr/lib/os-release has no VERSION_CODENAME`);
  // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's own
  const format = '${Package} ${Version} ${Architecture}\n';
  const text = execFileSync('dpkg-query', [`--admindir=${join(root, 'var/lib/dpkg')}`, '-W', '-f', format], {
    encoding: 'utf8',
  });
  return text
    .trim()
    .split('\n')
    .map((line) => {
      const [name = '', version = '', architecture = ''] = line.split(' ');
      const purl = `pkg:deb/debian/${name}@${encodeURIComponent(version)}?arch=${architecture}&distro=${suite}`;
      return toPackage(name, version, 'NOASSERTION', purl);
    });
}

/** The document; the fields that npm fills in by its version are left out, so that the image does not depend on it. */
function document(image: Package, contents: readonly Package[]): object {
  const packages = contents
    .map(({ SPDXID, name, versionInfo, licenseDeclared, externalRefs }) => ({
      SPDXID,
      name,
      versionInfo,
      licenseDeclared,
      externalRefs,
    }))
    .sort((a, b) => (a.SPDXID < b.SPDXID ? -1 : 1));
  const common = {
    downloadLocation: 'NOASSERTION',
    filesAnalyzed: false,
    licenseConcluded: 'NOASSERTION',
    copyrightText: 'NOASSERTION',
  };
  return {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    SPDXID: 'SPDXRef-DOCUMENT',
    name: `${image.name}-${image.versionInfo}`,
    documentNamespace: `https://veg-agent.io/spdx/${image.name}-${image.versionInfo}-${sha256(JSON.stringify(packages))}`,
    creationInfo: {
      created: new Date(Number(process.env.SOURCE_DATE_EPOCH) * 1000).toISOString().replace('.000', ''),
      creators: ['Tool: veg-agent-images-sbom'],
    },
    documentDescribes: [image.SPDXID],
    packages: [image, ...packages].map((each) => ({ ...each, ...common })),
    relationships: packages.map(({ SPDXID }) => ({
      spdxElementId: image.SPDXID,
      relationshipType: 'CONTAINS',
      relatedSpdxElement: SPDXID,
    })),
  };
}

/** The packages that the bundle of the gateway has, as bundle.ts has left them, and the package itself. */
function bundled(application: string): { image: Package; contents: Package[] } {
  const read = (file: string) => JSON.parse(readFileSync(join(application, file), 'utf8'));
  const { name, version, license } = read('package.json');
  const contents = read('npm.json') as Package[];
  rmSync(join(application, 'npm.json'));
  return { image: toPackage(name, version, license, `pkg:generic/${name}@${version}`), contents };
}

const [root, name, version] = process.argv.slice(2);
if (root === undefined || (name !== undefined && version === undefined))
  throw new Error('usage: node images/sbom.ts ROOT [NAME VERSION]');
const directory = join(root, name === undefined ? 'opt/veg-agent' : `usr/share/${name}`);
const { image, contents } =
  name === undefined
    ? bundled(directory)
    : { image: toPackage(name, version!, 'NOASSERTION', `pkg:generic/${name}@${version}`), contents: [] };
const file = join(directory, 'sbom.spdx.json');
mkdirSync(dirname(file), { recursive: true });
writeFileSync(
  file,
  `${JSON.stringify(document(image, [...debianPackages(root), ...contents]), undefined, 1)}\n`,
);
