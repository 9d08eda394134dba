/**
 * Writes the SBOM of the image: `node images/gateway/sbom.ts ROOT` makes ROOT/opt/veg-agent/sbom.spdx.json (SPDX
 * 2.3) of Debian's packages in ROOT, of the npm packages in the bundle, and of Node.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const SOURCE = fileURLToPath(new URL('../..', import.meta.url));

interface Component {
  name: string;
  version: string;
  /** SPDX expression; NOASSERTION where the package does not say it in these words. */
  license: string;
  /** https://github.com/package-url/purl-spec */
  purl: string;
}

interface LockedPackage {
  version: string;
  license?: string;
}

/** Debian's packages; their licences are in /usr/share/doc/PACKAGE/copyright. */
function debianPackages(root: string): Component[] {
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
      return { name, version, license: 'NOASSERTION', purl };
    });
}

/** The npm packages that the image has something of, Node among them. */
function npmPackages(application: string): Component[] {
  const lock = JSON.parse(readFileSync(join(SOURCE, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, LockedPackage>;
  };
  const inputs = JSON.parse(readFileSync(join(application, 'inputs.json'), 'utf8')) as string[];
  return inputs.map((path) => {
    const { version, license = 'NOASSERTION' } = lock.packages[path]!;
    const name = path.replace(/^.*node_modules\//, '');
    return { name, version, license, purl: `pkg:npm/${name.replace('@', '%40')}@${version}` };
  });
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

function document(own: { name: string; version: string; license: string }, components: Component[]): object {
  const spdx = ({ name, version, license, purl }: Component) => ({
    SPDXID: `SPDXRef-${sha256(purl).slice(0, 16)}`,
    name,
    versionInfo: version,
    downloadLocation: 'NOASSERTION',
    filesAnalyzed: false,
    licenseConcluded: 'NOASSERTION',
    licenseDeclared: license,
    copyrightText: 'NOASSERTION',
    externalRefs: [{ referenceCategory: 'PACKAGE-MANAGER', referenceType: 'purl', referenceLocator: purl }],
  });
  const image = spdx({ ...own, purl: `pkg:generic/${own.name}@${own.version}` });
  const packages = components.map(spdx).sort((a, b) => (a.SPDXID < b.SPDXID ? -1 : 1));
  return {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    SPDXID: 'SPDXRef-DOCUMENT',
    name: `${own.name}-${own.version}`,
    documentNamespace: `https://veg-agent.io/spdx/${own.name}-${own.version}-${sha256(JSON.stringify(packages))}`,
    creationInfo: {
      created: new Date(Number(process.env.SOURCE_DATE_EPOCH) * 1000).toISOString().replace('.000', ''),
      creators: ['Tool: veg-agent-images-gateway-sbom'],
    },
    documentDescribes: [image.SPDXID],
    packages: [image, ...packages],
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
const own = JSON.parse(readFileSync(join(application, 'package.json'), 'utf8'));
const components = [...debianPackages(root), ...npmPackages(application)];
writeFileSync(
  join(application, 'sbom.spdx.json'),
  `${JSON.stringify(document(own, components), undefined, 1)}\n`,
);
rmSync(join(application, 'inputs.json'));
