/**
 * Writes the SBOM of the image: `node images/gateway/sbom.ts ROOT` writes ROOT/opt/veg-agent/sbom.spdx.json (SPDX 2.3)
 * with Debian's packages in ROOT, and the npm packages in the bundle, Node among them, as `npm sbom` describes them.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

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
      const purl = `pkg:deb/debian/${name}@${encodeURIComponent(version)}?arch=${architecture}&distro=bookworm`;
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
      creators: ['Tool: veg-agent-images-gateway-sbom'],
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

const [root] = process.argv.slice(2);
if (root === undefined) throw new Error('usage: node images/gateway/sbom.ts ROOT');
const application = join(root, 'opt/veg-agent');
const read = (name: string) => JSON.parse(readFileSync(join(application, name), 'utf8'));
const { name, version, license } = read('package.json');
const image = toPackage(name, version, license, `pkg:generic/${name}@${version}`);
const contents = [...debianPackages(root), ...(read('npm.json') as Package[])];
writeFileSync(
  join(application, 'sbom.spdx.json'),
  `${JSON.stringify(document(image, contents), undefined, 1)}\n`,
);
rmSync(join(application, 'npm.json'));
