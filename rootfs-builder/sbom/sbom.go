// Package sbom writes what an image is made of, its software bill of materials, as an
// SPDX 2.3 document: the image's files, and the Go modules that the agent among them
// was linked from. It says nothing of licenses (NOASSERTION). The same image always
// gives the same bytes.
package sbom

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // SPDX wants it of each file
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// File is a regular file of an image.
type File struct {
	// Path is absolute in the guest.
	Path    string
	Content *io.SectionReader
}

// NewFile is a file whose content is in memory.
func NewFile(path string, content []byte) File {
	return File{Path: path, Content: io.NewSectionReader(bytes.NewReader(content), 0, int64(len(content)))}
}

// Image is what is described.
type Image struct {
	// Name is the image's file name, SHA256 its digest in hexadecimal.
	Name, SHA256 string
	// Created is when the image was made, for the document: not now, or the document
	// is another one each time.
	Created time.Time
	Files   []File
}

// none is what SPDX says of what nobody has looked at.
const none = "NOASSERTION"

// Write returns the document. Files that were built by Go bring their modules; what is
// linked statically from C is named where the build says that there is some, without
// a version, which no binary tells.
func Write(image Image) ([]byte, error) {
	d := newDocument(image)
	root := d.packaged(v2_3.Package{
		PackageName: image.Name, PackageFileName: image.Name, PrimaryPackagePurpose: "OPERATING-SYSTEM",
		PackageChecksums: []common.Checksum{{Algorithm: common.SHA256, Value: image.SHA256}},
	})
	d.relate("DOCUMENT", common.TypeRelationshipDescribe, root)
	for i, file := range image.Files {
		id, err := d.file(i, file)
		if err != nil {
			return nil, fmt.Errorf("write the bill of materials of %s: %w", image.Name, err)
		}
		d.relate(root, common.TypeRelationshipContains, id)
		info, err := buildinfo.Read(file.Content)
		if err != nil {
			continue // Go did not build it
		}
		d.program(id, info)
	}
	var out bytes.Buffer
	if err := spdxjson.Write(d.Document, &out, spdxjson.Indent("  ")); err != nil {
		return nil, fmt.Errorf("write the bill of materials of %s: %w", image.Name, err)
	}
	return out.Bytes(), nil
}

type document struct {
	*v2_3.Document
	// packages are those that are there, by name and version.
	packages map[string]common.ElementID
}

func newDocument(image Image) *document {
	return &document{Document: &v2_3.Document{
		SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName:      image.Name,
		DocumentNamespace: "https://kata-runtime.invalid/spdx/" + url.PathEscape(image.Name) + "-" + image.SHA256,
		CreationInfo: &v2_3.CreationInfo{
			Created:  image.Created.UTC().Format(time.RFC3339),
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "rootfs-builder"}},
		},
	}, packages: map[string]common.ElementID{}}
}

// packaged adds a package, once, and returns its id.
func (d *document) packaged(p v2_3.Package) common.ElementID {
	key := p.PackageName + "@" + p.PackageVersion
	if id, ok := d.packages[key]; ok {
		return id
	}
	id := common.ElementID(fmt.Sprintf("Package-%d", len(d.packages)+1))
	d.packages[key] = id
	p.PackageSPDXIdentifier = id
	p.PackageDownloadLocation = none
	p.PackageLicenseConcluded, p.PackageLicenseDeclared, p.PackageCopyrightText = none, none, none
	d.Packages = append(d.Packages, &p)
	return id
}

func (d *document) file(i int, file File) (common.ElementID, error) {
	id := common.ElementID(fmt.Sprintf("File-%d", i+1))
	sum1, sum256 := sha1.New(), sha256.New() //nolint:gosec // see above
	if _, err := io.Copy(io.MultiWriter(sum1, sum256), io.NewSectionReader(file.Content, 0, file.Content.Size())); err != nil {
		return "", fmt.Errorf("read %s: %w", file.Path, err)
	}
	d.Files = append(d.Files, &v2_3.File{
		FileName: "." + file.Path, FileSPDXIdentifier: id,
		Checksums: []common.Checksum{
			{Algorithm: common.SHA1, Value: hex.EncodeToString(sum1.Sum(nil))},
			{Algorithm: common.SHA256, Value: hex.EncodeToString(sum256.Sum(nil))},
		},
		LicenseConcluded: none, LicenseInfoInFiles: []string{none}, FileCopyrightText: none,
	})
	return id, nil
}

// program adds what a Go program was linked from.
func (d *document) program(file common.ElementID, info *debug.BuildInfo) {
	main := d.packaged(module(&info.Main))
	d.relate(file, common.TypeRelationshipGeneratedFrom, main)
	d.relate(file, common.TypeRelationshipStaticLink, d.packaged(v2_3.Package{
		PackageName: "stdlib", PackageVersion: strings.TrimPrefix(info.GoVersion, "go"), PrimaryPackagePurpose: "LIBRARY",
		PackageExternalReferences: locator("pkg:golang/stdlib@" + strings.TrimPrefix(info.GoVersion, "go")),
	}))
	for _, dependency := range info.Deps {
		if dependency.Replace != nil {
			dependency = dependency.Replace
		}
		d.relate(file, common.TypeRelationshipStaticLink, d.packaged(module(dependency)))
	}
	for _, setting := range info.Settings {
		if setting.Key != "CGO_ENABLED" || setting.Value != "1" {
			continue
		}
		for _, name := range []string{"glibc", "libseccomp"} {
			d.relate(file, common.TypeRelationshipStaticLink, d.packaged(v2_3.Package{
				PackageName: name, PrimaryPackagePurpose: "LIBRARY",
				PackageComment: "linked statically, in the version of the machine that built the program",
			}))
		}
	}
}

func module(m *debug.Module) v2_3.Package {
	p := v2_3.Package{PackageName: m.Path, PackageVersion: m.Version, PrimaryPackagePurpose: "LIBRARY"}
	if m.Version != "" && m.Version != "(devel)" {
		p.PackageExternalReferences = locator("pkg:golang/" + m.Path + "@" + url.PathEscape(m.Version))
	}
	if m.Sum != "" {
		p.PackageSourceInfo = "go.sum " + m.Sum
	}
	return p
}

// locator is a package's URL, by which scanners look for what is known of it.
func locator(purl string) []*v2_3.PackageExternalReference {
	return []*v2_3.PackageExternalReference{{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl}}
}

func (d *document) relate(from common.ElementID, how string, to common.ElementID) {
	d.Relationships = append(d.Relationships, &v2_3.Relationship{
		RefA: common.DocElementID{ElementRefID: from}, Relationship: how, RefB: common.DocElementID{ElementRefID: to},
	})
}
